/* SPDX-License-Identifier: Apache-2.0
 *
 * A block of query rows against a block of keys in the backward pass: packing each operand for its
 * places in the products (see ha_grad_tile), and the loop over tiles.
 */
#ifndef HA_GRAD_H
#define HA_GRAD_H

#include "cpu/sums.h"

/* One thread's packs. */
typedef struct ha_grad {
    void *q, *dout, *q_sum, *dout_sum; /* HA_GRAD_ROWS rows */
    void *k, *v, *k_sum;               /* HA_BATCH_KEYS keys */
    float *lse, *delta;                /* [HA_GRAD_ROWS] */
    float *capped;                     /* [HA_GRAD_ROWS] */
    float *scratch;                    /* the kernels' scratch */
    int32_t *limit;                    /* [gr] */
} ha_grad;

void ha_grad_carve(ha_carver *c, const ha_cpu_plan *plan, ha_grad *g);

/* Rows of q and dout, at most HA_GRAD_ROWS, and keys of k and v, at most HA_BATCH_KEYS. Return 1 if
 * all of q and dout, or all of k, are finite. */
int ha_grad_pack_rows(const ha_cpu_plan *plan, ha_grad *g, const ha_query_rows *at);
int ha_grad_pack_keys(const ha_cpu_plan *plan, ha_grad *g, const ha_rows *k, const ha_rows *v,
                      int64_t keys);

/* lse and delta of the rows. */
void ha_grad_load_rows(const ha_cpu_plan *plan, ha_grad *g, const ha_sums *s,
                       const ha_query_rows *at);

/* What is packed, and where its gradients are summed. */
typedef struct ha_grad_block {
    int64_t rows, keys;
    int64_t limit;     /* row i sees the keys below limit + slope * i */
    int slope;         /* 0: all rows see all keys; 1 */
    const float *logw; /* log2 weights, [keys up to a multiple of NR], -inf where padded */
    const float *cap;  /* most that a score may be, per row; or NULL */
    float *dq, *dk, *dv;
} ha_grad_block;

void ha_grad_tiles(const ha_cpu_plan *plan, const ha_grad *g, const ha_grad_block *block);

#endif
