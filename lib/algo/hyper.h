/* SPDX-License-Identifier: Apache-2.0
 *
 * Algorithm 3 on one rectangle: which columns the queries of a run attend to, a batch at a time,
 * and the runs cut into tasks.
 */
#ifndef HA_ALGO_HYPER_H
#define HA_ALGO_HYPER_H

#include <stdint.h>

#include "algo/approxd.h"

/* How a batch of columns came about. */
typedef enum ha_column_kind {
    HA_EXACT_COLUMNS,  /* blocks, sinks and window: weight 1 */
    HA_SAMPLED_COLUMNS /* estimate the rest */
} ha_column_kind;

/* Keys of a sequence, with their log2 weights. */
typedef struct ha_picks {
    uint32_t *key;
    float *logw;
    int64_t n, room;
    ha_column_kind kind;
} ha_picks;

/* What picks the columns of one run: its blocks and pinned columns, then its samples. */
typedef struct ha_picker {
    ha_sampler sampler;
    const ha_rect *rect;
    const uint32_t *korder; /* keys in sorted order, [layout->nk]; NULL: their own */
    int64_t span, taken;    /* exact spans done, and keys taken of the next one */
    int64_t drawn;
} ha_picker;

ha_picker ha_picker_begin(const ha_sampler *sampler, const ha_rect *rect, const uint32_t *korder);

/* The same without the exact columns. */
ha_picker ha_picker_begin_sampled(const ha_sampler *sampler, const ha_rect *rect,
                                  const uint32_t *korder);

/* The next batch, which is not empty; 0 when there is none. */
int ha_pick(ha_picker *p, ha_picks *to);

/* The key at a position of a rectangle's key order. */
static inline uint32_t ha_key_at(const ha_rect *rect, const uint32_t *korder, int64_t position)
{
    int64_t place = rect->k0 + position;
    return korder ? korder[place] : (uint32_t)place;
}

/* Rows of a rectangle's sorted queries [row0, row0 + rows), counted from its first, against the
 * columns of their run. */
typedef struct ha_task {
    const ha_rect *rect;
    int32_t key_head, head; /* place of the key head among those in work; query head of its group */
    int64_t run;
    int64_t row0, rows;
} ha_task;

/* The tasks of one rectangle and head; runs longer than HA_TASK_ROWS become several. Returns how
 * many. */
int64_t ha_list_tasks(ha_task *tasks, const ha_rect *rect, const uint32_t *bounds,
                      int32_t key_head, int32_t head);

#endif
