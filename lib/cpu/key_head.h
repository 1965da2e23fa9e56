/* SPDX-License-Identifier: Apache-2.0
 *
 * A key head: one head of k and v of one sequence, with the group of query heads that read it. A
 * call works on several at a time, which are said to be in flight. In a plan whose group is 1, as
 * query heads that choose have, it is there once for every query head that reads it.
 */
#ifndef HA_KEY_HEAD_H
#define HA_KEY_HEAD_H

#include "backend.h"
#include "cpu/cpu_plan.h"

/* Rows of the query heads of a group, which lie `step` elements apart. */
typedef struct ha_group_rows {
    ha_rows head0;
    int64_t step;
} ha_group_rows;

typedef struct ha_group_out {
    ha_out_rows head0;
    int64_t step;
} ha_group_out;

typedef struct ha_key_head {
    const ha_layout *layout;
    uint32_t number; /* of the key head in the batch */
    int64_t query0;  /* number of its first query head, of all query heads of the batch */
    ha_rows k, v;
    ha_group_rows q;
    /* forward */
    ha_group_out out;
    float *lse; /* or NULL */
    int64_t lse_step;
    /* backward; measure: o */
    ha_group_rows o, dout; /* out, and the gradient of the loss by it */
    ha_group_out dq;
    ha_out_rows dk, dv;
    const float *lse_given;
} ha_key_head;

/* Rows of one tensor of query head `head` of the group. */
ha_rows ha_head_rows(const ha_group_rows *rows, int64_t head);
ha_out_rows ha_head_out(const ha_group_out *out, int64_t head);

/* Group `number` of the batch's query heads, with its key head, in the tensors of a call. */
void ha_aim_forward(ha_key_head *kh, const ha_cpu_plan *plan, const ha_plan *whole,
                    const ha_tensors *t, int64_t number);
void ha_aim_backward(ha_key_head *kh, const ha_cpu_plan *plan, const ha_plan *whole,
                     const ha_gradients *t, int64_t number);

void ha_aim_measure(ha_key_head *kh, const ha_cpu_plan *plan, const ha_plan *whole,
                    const ha_measured *t, int64_t number);

/* Some rows of one query head of a key head: by index, or consecutive from first on. */
typedef struct ha_query_rows {
    const ha_key_head *kh;
    int64_t head;
    const uint32_t *index;
    int64_t first, rows;
} ha_query_rows;

static inline int64_t ha_row_of(const ha_query_rows *at, int64_t i)
{
    return at->index ? (int64_t)at->index[i] : at->first + i;
}

/* The same rows of a tensor. */
static inline ha_rows ha_rows_at(const ha_group_rows *rows, const ha_query_rows *at)
{
    ha_rows r = ha_head_rows(rows, at->head);
    r.index = at->index;
    r.first = at->first;
    return r;
}

static inline ha_out_rows ha_out_at(const ha_group_out *out, const ha_query_rows *at)
{
    ha_out_rows r = ha_head_out(out, at->head);
    r.index = at->index;
    r.first = at->first;
    return r;
}

#endif
