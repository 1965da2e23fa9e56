/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/hyper.h"

#include "cpu/cap.h"
#include "cpu/clock.h"
#include "cpu/columns.h"
#include "cpu/state.h"
#include "int64.h"
#include "parallel.h"

/* The predefined mask's key blocks for a query block. */
static ha_blocks mask_blocks(const hyperattn_plan *plan, const ha_unit *u, const ha_rect *rect,
                             int64_t head)
{
    const hyperattn_block_mask *mask = plan->params.block_mask;
    int64_t rows = 1 + (plan->problem.seqlen_q - 1) / mask->query_block, row = rect->mask_row;
    if (mask->per_head)
        row += (u->head0 + head) % plan->problem.nheads * rows;
    return (ha_blocks){
        .block = mask->key_blocks + mask->row_start[row],
        .n = mask->row_start[row + 1] - mask->row_start[row],
        .width = mask->key_block,
        .origin = rect->k0,
        .total = rect->nk,
    };
}

ha_sampler ha_hyper_columns(const ha_run *run, const ha_unit *u, const ha_rect *rect, int64_t head,
                            const int64_t *t)
{
    const hyperattn_params *p = &run->plan->params;
    ha_blocks exact = {.block = t, .n = ha_is_sorted(&run->plan->params), .width = p->block_size,
                       .total = rect->nk};
    if (p->block_mask)
        exact = mask_blocks(run->plan, u, rect, head);
    exact = ha_blocks_trim(exact);
    return (ha_sampler){
        .exact = exact,
        .outside = ha_blocks_outside(&exact),
        .draws = p->sample_size,
        .mass = u->mass ? u->mass + rect->k0 : NULL,
        .seed = p->seed,
        .head = (uint32_t)(u->head0 + head),
        .rect = (uint32_t)(rect - u->layout->rects),
        .block = (uint32_t)*t,
    };
}

/* The columns of a task, a batch at a time: its exact ones, then its samples. */
typedef struct walk {
    const ha_run *run;
    const ha_task *task;
    ha_sampler columns;
    int64_t range, taken; /* exact ranges done, and keys taken of the next one */
    int64_t drawn;
} walk;

static walk walk_begin(const ha_run *run, const ha_task *task)
{
    return (walk){
        .run = run,
        .task = task,
        .columns = ha_hyper_columns(run, &run->units[task->unit], task->rect, task->head,
                                    &task->block),
    };
}

/* Exact range i: the blocks' positions, then sinks and window, whose keys the rectangle lacks. */
static int exact_range(const walk *w, int64_t i, int64_t *begin, int64_t *end)
{
    const ha_blocks *blocks = &w->columns.exact;
    if (i < blocks->n) {
        *begin = ha_block_begin(blocks, i);
        *end = ha_block_end(blocks, i);
    } else if (i < blocks->n + 2) {
        *begin = w->task->rect->exact[i - blocks->n][0];
        *end = w->task->rect->exact[i - blocks->n][1];
    }
    return i < blocks->n + 2;
}

static void next_exact(walk *w, ha_columns *c)
{
    const ha_unit *u = &w->run->units[w->task->unit];
    int64_t begin, end;
    while (c->n < HA_TASK_KEYS && exact_range(w, w->range, &begin, &end)) {
        int64_t first = begin + w->taken, n = ha_min(HA_TASK_KEYS - c->n, end - first);
        for (int64_t x = 0; x < n; x++) {
            c->key[c->n + x] = w->range < w->columns.exact.n
                ? ha_key_at(w->run, u, w->task->rect, first + x) : (uint32_t)(first + x);
            c->logw[c->n + x] = 0;
        }
        c->n += n;
        w->taken += n;
        if (begin + w->taken == end) {
            w->range++;
            w->taken = 0;
        }
    }
}

static void next_sampled(walk *w, ha_columns *c)
{
    int64_t draws = ha_min(HA_TASK_KEYS, ha_sample_draws(&w->columns) - w->drawn);
    c->n = ha_sample(&w->columns, w->drawn, draws, c->key, c->logw);
    for (int64_t i = 0; i < c->n; i++)
        c->key[i] = ha_key_at(w->run, &w->run->units[w->task->unit], w->task->rect, c->key[i]);
    w->drawn += draws;
}

/* The next batch, which is not empty; 0 when there is none. */
static int walk_next(walk *w, ha_columns *c)
{
    c->n = 0;
    c->sampled = 0;
    next_exact(w, c);
    while (!c->n && w->drawn < ha_sample_draws(&w->columns)) {
        c->sampled = 1;
        next_sampled(w, c); /* none, where all V-norm draws fell into exact blocks */
    }
    return c->n > 0;
}

/* ---- rows that are needed next --------------------------------------------------------------- */

static void expect_rows(ha_scratch *s, const ha_rows *rows, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        s->ahead[s->nahead++] = ha_row_at(rows, i);
}

static void expect_columns(ha_scratch *s, const ha_unit *u, const ha_columns *c)
{
    ha_rows k = u->k, v = u->v;
    k.index = v.index = c->key;
    expect_rows(s, &k, c->n);
    expect_rows(s, &v, c->n);
}

static ha_state_rows task_rows(const ha_run *run, const ha_task *task)
{
    ha_unit *u = &run->units[task->unit];
    int64_t first = task->rect->q0 + task->row0;
    return (ha_state_rows){
        .unit = u,
        .head = task->head,
        .rows = task->rows,
        .first = first,
        .index = ha_is_sorted(&run->plan->params) ? u->qorder + task->head * u->layout->nq + first
                                                  : NULL,
    };
}

static ha_rows query_rows(const ha_state_rows *at)
{
    ha_rows q = at->unit->q[at->head];
    q.index = at->index;
    q.first = at->first;
    return q;
}

/* The task that this thread is likely to get next: threads take them in turn. */
static void expect_task(const ha_run *run, ha_scratch *s, int64_t i)
{
    if (i >= run->ntasks)
        return;
    const ha_task *task = &run->tasks[i];
    const ha_state_rows at = task_rows(run, task);
    ha_rows q = query_rows(&at);
    walk w = walk_begin(run, task);
    expect_rows(s, &q, task->rows);
    if (walk_next(&w, &s->columns[2]))
        expect_columns(s, at.unit, &s->columns[2]);
    if (!task->rect->first)
        for (int64_t x = 0; x < task->rows; x++)
            s->ahead[s->nahead++] = ha_state_row(run, &at, x);
}

static void expect_out(ha_scratch *s, const ha_state_rows *at)
{
    const ha_out_rows *out = &at->unit->out[at->head];
    const ha_rows rows = {out->base, out->stride, at->index, at->first, out->dtype};
    expect_rows(s, &rows, at->rows);
}

/* ---- a task ---------------------------------------------------------------------------------- */

/* All columns of a task in one online softmax. Each batch is named while the one before is at work,
 * so that its rows, which lie anywhere, are in the caches when they are gathered. */
static double attend_columns(ha_run *run, ha_scratch *s, int64_t i, int thread, int final,
                             double clock)
{
    const ha_task *task = &run->tasks[i];
    const ha_state_rows at = task_rows(run, task);
    int64_t dv = run->plan->problem.head_dim_v;
    int capped = run->plan->params.kappa_cap > 0, prepared = !capped;
    ha_columns *now = &s->columns[0], *next = &s->columns[1];
    walk w = walk_begin(run, task);
    for (int more = walk_next(&w, now); more;) {
        ha_columns_pack(run, s, at.unit, now, dv);
        more = walk_next(&w, next);
        if (more)
            expect_columns(s, at.unit, next);
        else {
            expect_task(run, s, i + run->plan->ctx->nthreads);
            if (final)
                expect_out(s, &at);
        }
        clock = ha_clock_add(run, thread, HA_STAGE_GATHER, clock);
        if (now->sampled && !prepared) {
            ha_cap_prepare(run, s, task);
            prepared = 1;
        }
        ha_columns_attend(run, s, now, task->rows, capped && now->sampled, dv);
        clock = ha_clock_add(run, thread, now->sampled ? HA_STAGE_SAMPLE : HA_STAGE_BLOCK, clock);
        ha_columns *done = now;
        now = next;
        next = done;
    }
    if (!prepared)
        ha_cap_prepare(run, s, task);
    return clock;
}

/* One run of queries: its block and other exact columns, then its samples, in one online softmax
 * that goes on from the waves before. With kappa_cap, the cap needs this rectangle's block sum
 * alone, so the earlier state is folded in at the end. */
static void attend_task(void *arg, int64_t i, int thread, int final)
{
    ha_run *run = arg;
    const ha_task *task = &run->tasks[i];
    ha_scratch *s = &run->scratch[thread];
    const ha_state_rows at = task_rows(run, task);
    const ha_rows q = query_rows(&at);
    int capped = run->plan->params.kappa_cap > 0;
    double clock = ha_clock(run->plan);
    run->cpu->arith->load_q(s->q, &q, task->rows, run->plan->problem.head_dim);
    clock = ha_clock_add(run, thread, HA_STAGE_GATHER, clock);
    if (task->rect->first || capped)
        ha_state_clear(run, s, task->rows);
    else
        ha_state_load(run, s, &at);
    clock = ha_clock_add(run, thread, HA_STAGE_STATE, clock);
    clock = attend_columns(run, s, i, thread, final, clock);
    if (capped)
        ha_cap_finish(run, s, task);
    if (capped && !task->rect->first)
        ha_state_merge(run, s, &at);
    if (final)
        ha_state_finish(run, s, &at);
    else
        ha_state_store(run, s, &at);
    ha_clock_add(run, thread, HA_STAGE_STATE, clock);
}

static void middle_task(void *arg, int64_t i, int thread)
{
    attend_task(arg, i, thread, 0);
}

static void final_task(void *arg, int64_t i, int thread)
{
    attend_task(arg, i, thread, 1);
}

void ha_hyper_attend(ha_run *run, int final)
{
    if (run->plan->params.kappa_cap > 0)
        ha_cap_tau(run);
    ha_parallel_for(run->plan->ctx->nthreads, run->ntasks, final ? final_task : middle_task, run);
}
