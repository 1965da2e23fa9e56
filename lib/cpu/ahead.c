/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/ahead.h"

#include "int64.h"

/* Most rows that are named at a time: keys and values of one batch of columns, and a task's rows of
 * q, out and states. */
#define MOST (2 * HA_BATCH_KEYS + 3 * HA_TASK_ROWS)

void ha_ahead_carve(ha_carver *c, const ha_cpu_plan *plan, ha_ahead *ahead)
{
    const hyperattn_problem *p = plan->problem;
    ahead->address = ha_carve(c, MOST, sizeof *ahead->address);
    ahead->bytes = ha_max(p->head_dim, p->head_dim_v) * (p->dtype == HYPERATTN_F32 ? 4 : 2);
    ahead->n = 0;
}

static void expect_rows(ha_ahead *ahead, const ha_rows *rows, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        ahead->address[ahead->n++] = ha_row_at(rows, i);
}

void ha_expect_queries(ha_ahead *ahead, const ha_query_rows *at)
{
    const ha_rows q = ha_rows_at(&at->kh->q, at);
    expect_rows(ahead, &q, at->rows);
}

void ha_expect_out(ha_ahead *ahead, const ha_query_rows *at)
{
    const ha_out_rows out = ha_out_at(&at->kh->out, at);
    const ha_rows rows = {out.base, out.stride, out.index, out.first, out.dtype};
    expect_rows(ahead, &rows, at->rows);
}

void ha_expect_states(ha_ahead *ahead, const ha_cpu_plan *plan, const ha_states *states,
                      const ha_query_rows *at)
{
    int64_t base = at->head * at->kh->layout->nq;
    for (int64_t i = 0; i < at->rows; i++)
        ahead->address[ahead->n++] = states->acc + (base + ha_row_of(at, i)) * plan->ldacc;
}

void ha_expect_columns(ha_ahead *ahead, const ha_key_head *kh, const ha_picks *picks)
{
    const ha_columns c = ha_columns_picked(kh, picks);
    expect_rows(ahead, &c.k, c.n);
    expect_rows(ahead, &c.v, c.n);
}
