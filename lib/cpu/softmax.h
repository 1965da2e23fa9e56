/* SPDX-License-Identifier: Apache-2.0
 *
 * The running softmax of some query rows: m (log2 of the largest weight seen), l (the sum of
 * weights relative to it) and acc (the weighted sum of values). A thread works on one; between
 * stages it is kept in states.
 */
#ifndef HA_SOFTMAX_H
#define HA_SOFTMAX_H

#include "cpu/key_head.h"
#include "workspace.h"

/* One thread's rows, up to a multiple of MR, and what the kernels need beside them. */
typedef struct ha_softmax {
    void *q; /* query tiles */
    float *m, *l, *acc;
    float *inv;     /* factor of each row at the end */
    float *scratch; /* the kernels' */
} ha_softmax;

/* Kept rows: [group][nq] of a key head, or any others; acc is ldacc wide, or NULL where only m and
 * l are wanted. */
typedef struct ha_states {
    float *m, *l, *acc;
} ha_states;

void ha_softmax_carve(ha_carver *c, const ha_cpu_plan *plan, ha_softmax *s, int64_t rows);
void ha_states_carve(ha_carver *c, const ha_cpu_plan *plan, ha_states *states, int64_t rows);

/* The softmax from row r on. */
ha_softmax ha_softmax_from(const ha_cpu_plan *plan, const ha_softmax *s, int64_t r);

/* States from row r on. */
ha_states ha_states_from(const ha_cpu_plan *plan, const ha_states *states, int64_t r);

/* No key seen yet, for all padded rows. */
void ha_softmax_clear(const ha_cpu_plan *plan, ha_softmax *s, int64_t rows);

/* Loads the query tiles of rows. */
void ha_softmax_load_q(const ha_cpu_plan *plan, ha_softmax *s, const ha_query_rows *at);

/* From and to a key head's states, [group][nq]. */
void ha_softmax_load(const ha_cpu_plan *plan, ha_softmax *s, const ha_states *from,
                     const ha_query_rows *at);
void ha_softmax_store(const ha_cpu_plan *plan, const ha_softmax *s, const ha_states *to,
                      const ha_query_rows *at);

/* Folds kept rows, or n rows of another softmax, into this one. */
void ha_softmax_fold(const ha_cpu_plan *plan, ha_softmax *s, const ha_states *from,
                     const ha_query_rows *at);
void ha_softmax_add(const ha_cpu_plan *plan, const ha_softmax *s, const ha_states *other,
                    int64_t n);

/* Writes out and lse. */
void ha_softmax_finish(const ha_cpu_plan *plan, ha_softmax *s, const ha_query_rows *at);

/* A tile of the kernels: rows [r, r + rows) of s against keys of a pack. What the tile needs beside
 * that is the caller's to set. */
typedef struct ha_key_pack {
    void *k, *v;
    int64_t keys; /* of the whole pack */
} ha_key_pack;

ha_tile ha_tile_at(const ha_cpu_plan *plan, const ha_softmax *s, int64_t r, int64_t rows,
                   const ha_key_pack *pack, int64_t first, int64_t keys);

#endif
