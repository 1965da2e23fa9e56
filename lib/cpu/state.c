/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/state.h"

#include <math.h>
#include <string.h>

#include "cpu/walk.h"

ha_state_rows ha_task_rows(const ha_run *run, const ha_task *task)
{
    ha_unit *u = &run->units[task->unit];
    int64_t first = task->rect->q0 + task->row0;
    return (ha_state_rows){
        .unit = u,
        .head = task->head,
        .rows = task->rows,
        .first = first,
        .index = ha_is_sorted(run->plan->params) ? u->qorder + task->head * u->layout->nq + first
                                                  : NULL,
    };
}

static int64_t row_of(const ha_state_rows *at, int64_t i)
{
    return at->index ? (int64_t)at->index[i] : at->first + i;
}

const float *ha_state_row(const ha_run *run, const ha_state_rows *at, int64_t i)
{
    int64_t row = at->head * at->unit->layout->nq + row_of(at, i);
    return at->unit->acc + row * run->cpu->ldacc;
}

void ha_state_clear(const ha_run *run, ha_scratch *s, int64_t rows)
{
    rows = ha_round_up(rows, run->cpu->arith->mr);
    for (int64_t i = 0; i < rows; i++) {
        s->m[i] = -INFINITY;
        s->l[i] = 0;
    }
    memset(s->acc, 0, (size_t)(rows * run->cpu->ldacc) * sizeof *s->acc);
}

void ha_state_load(const ha_run *run, ha_scratch *s, const ha_state_rows *at)
{
    int64_t ld = run->cpu->ldacc, base = at->head * at->unit->layout->nq;
    for (int64_t i = 0; i < at->rows; i++) {
        int64_t row = base + row_of(at, i);
        s->m[i] = at->unit->m[row];
        s->l[i] = at->unit->l[row];
        memcpy(s->acc + i * ld, at->unit->acc + row * ld, (size_t)ld * sizeof(float));
    }
    int64_t pad = ha_round_up(at->rows, run->cpu->arith->mr);
    for (int64_t i = at->rows; i < pad; i++) {
        s->m[i] = -INFINITY;
        s->l[i] = 0;
        memset(s->acc + i * ld, 0, (size_t)ld * sizeof(float));
    }
}

void ha_state_store(const ha_run *run, const ha_scratch *s, const ha_state_rows *at)
{
    int64_t ld = run->cpu->ldacc, base = at->head * at->unit->layout->nq;
    for (int64_t i = 0; i < at->rows; i++) {
        int64_t row = base + row_of(at, i);
        at->unit->m[row] = s->m[i];
        at->unit->l[row] = s->l[i];
        memcpy(at->unit->acc + row * ld, s->acc + i * ld, (size_t)ld * sizeof(float));
    }
}

void ha_state_merge(const ha_run *run, ha_scratch *s, const ha_state_rows *at)
{
    int64_t ld = run->cpu->ldacc, base = at->head * at->unit->layout->nq;
    for (int64_t i = 0; i < at->rows; i++) {
        int64_t row = base + row_of(at, i);
        const float *other = at->unit->acc + row * ld;
        float top = fmaxf(s->m[i], at->unit->m[row]);
        if (top == -INFINITY)
            continue;
        float mine = exp2f(s->m[i] - top), theirs = exp2f(at->unit->m[row] - top);
        s->m[i] = top;
        s->l[i] = s->l[i] * mine + at->unit->l[row] * theirs;
        for (int64_t c = 0; c < ld; c++)
            s->acc[i * ld + c] = s->acc[i * ld + c] * mine + other[c] * theirs;
    }
}

void ha_state_finish(const ha_run *run, ha_scratch *s, const ha_state_rows *at)
{
    const float ln2 = 0.693147180559945309f;
    float *lse = at->unit->lse[at->head];
    for (int64_t i = 0; i < at->rows; i++) {
        int none = s->l[i] == 0;
        s->inv[i] = none ? 0 : 1 / s->l[i];
        if (lse)
            lse[row_of(at, i)] = none ? -INFINITY : (s->m[i] + log2f(s->l[i])) * ln2;
    }
    ha_out_rows out = at->unit->out[at->head];
    out.index = at->index;
    out.first = at->first;
    ha_run_kernels(run)->store_rows(&out, s->acc, run->cpu->ldacc, s->inv, at->rows,
                                    run->plan->problem->head_dim_v);
}
