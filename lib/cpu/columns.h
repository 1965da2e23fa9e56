/* SPDX-License-Identifier: Apache-2.0
 *
 * Columns that queries attend to: rows of keys and values from any source, each with a weight. They
 * may be keys of the sequence, or means of many of them in memory of their own and of another
 * dtype.
 */
#ifndef HA_COLUMNS_H
#define HA_COLUMNS_H

#include "algo/hyper.h"
#include "cpu/add_rows.h"
#include "cpu/softmax.h"

typedef struct ha_columns {
    ha_rows k, v; /* n rows of each */
    float *logw;  /* log2 weights, with room up to a multiple of NR */
    int64_t n;    /* at most HA_BATCH_KEYS */
    ha_column_kind kind;
} ha_columns;

/* Keys of a key head, as picked. */
ha_columns ha_columns_picked(const ha_key_head *kh, const ha_picks *picks);

/* Room for the picks of one batch of a sequence's keys, and for its pack. */
void ha_picks_carve(ha_carver *c, const ha_cpu_plan *plan, ha_picks *picks);
void ha_key_pack_carve(ha_carver *c, const ha_cpu_plan *plan, ha_key_pack *pack);

/* Gathers columns into a pack, in the arithmetic of the plan. with_values 0: keys only. */
void ha_columns_pack(const ha_cpu_plan *plan, ha_key_pack *pack, const ha_columns *c,
                     int with_values);

/* Rows whose memory comes into the caches meanwhile: addresses of `bytes` each. */
typedef struct ha_ahead {
    const void **address;
    int64_t n, bytes;
} ha_ahead;

/* One online softmax step of rows [0, rows) of s over packed columns. cap: most that a score may
 * be, per row, or NULL. ahead: fetched in passing, and empty afterwards; or NULL. */
void ha_columns_attend(const ha_cpu_plan *plan, const ha_softmax *s, int64_t rows,
                       const ha_key_pack *pack, const ha_columns *c, const float *cap,
                       int with_values, ha_ahead *ahead);

/* Sums of gradients of rows of keys and values: where those of columns go. */
typedef struct ha_column_sums {
    float *dk, *dv;
    int64_t ldk, ldv;
} ha_column_sums;

/* Row x of one += factor times row y of the other. */
static inline void ha_columns_add(const ha_column_sums *to, int64_t x, const ha_column_sums *from,
                                  int64_t y, float factor)
{
    ha_add_multiple(to->dk + x * to->ldk, from->dk + y * from->ldk, factor, to->ldk);
    ha_add_multiple(to->dv + x * to->ldv, from->dv + y * from->ldv, factor, to->ldv);
}

/* Row x is needed soon. */
static inline void ha_columns_ask_for(const ha_column_sums *s, int64_t x)
{
    ha_ask_for(s->dk + x * s->ldk, s->ldk);
    ha_ask_for(s->dv + x * s->ldv, s->ldv);
}

/* Adds gradients of n columns to the sums of their rows index[i], of those in [first, end), in
 * ascending order of i. found has room for n + 1. */
void ha_columns_scatter(const ha_column_sums *to, const ha_column_sums *from,
                        const uint32_t *index, int64_t n, uint32_t first, uint32_t end,
                        uint32_t *found);

#endif
