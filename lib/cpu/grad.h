/* SPDX-License-Identifier: Apache-2.0
 *
 * A block of query rows against a block of keys in the backward pass: packing, and the loop over
 * tiles.
 */
#ifndef HA_GRAD_H
#define HA_GRAD_H

#include "cpu/unit.h"

/* Rows of q and dout, at most HA_GRAD_ROWS, and keys of k and v, at most HA_TASK_KEYS, into the
 * scratch's packs. Return 1 if all of q and dout, or all of k, are finite. */
int ha_grad_pack_rows(const ha_run *run, ha_scratch *s, const ha_rows *q, const ha_rows *dout,
                      int64_t rows);
int ha_grad_pack_keys(const ha_run *run, ha_scratch *s, const ha_rows *k, const ha_rows *v,
                      int64_t keys);

/* lse and delta of `rows` rows of a head, by index or from first on, into the scratch. */
void ha_grad_load_rows(const ha_run *run, ha_scratch *s, const ha_unit *u, int64_t head,
                       const uint32_t *index, int64_t first, int64_t rows);

/* What is packed, and where its gradients are summed. */
typedef struct ha_grad_block {
    int64_t rows, keys;
    int64_t limit;     /* row i sees the keys below limit + slope * i */
    int slope;         /* 0: all rows see all keys; 1 */
    const float *logw; /* log2 weights, [keys up to a multiple of NR], -inf where padded */
    int capped;        /* by the scratch's cap */
    float *dq, *dk, *dv;
} ha_grad_block;

void ha_grad_tiles(const ha_run *run, ha_scratch *s, const ha_grad_block *block);

#endif
