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

/* A task at work. */
typedef struct work {
    ha_run *run;
    const ha_task *task;
    ha_unit *u;
    ha_scratch *s;
    int thread;
    double clock;
    ha_sampler columns;
    int64_t filled; /* columns in the scratch's index and logw */
    int sampled;    /* they are sampled ones */
} work;

static void book(work *w, ha_stage stage)
{
    w->clock = ha_clock_add(w->run, w->thread, stage, w->clock);
}

/* Attends to the columns collected so far. */
static void flush(work *w)
{
    int64_t dv = w->run->plan->problem.head_dim_v;
    if (!w->filled)
        return;
    ha_columns_pack(w->run, w->s, w->u, w->filled, dv);
    book(w, HA_STAGE_GATHER);
    ha_columns_attend(w->run, w->s, w->task->rows, w->filled,
                      w->sampled && w->run->plan->params.kappa_cap > 0, dv);
    w->filled = 0;
    book(w, w->sampled ? HA_STAGE_SAMPLE : HA_STAGE_BLOCK);
}

/* Exact columns [first, end): positions of the rectangle, or keys where it does not hold them. */
static void exact_columns(work *w, int64_t first, int64_t end, int in_rect)
{
    for (int64_t x = first; x < end; x++) {
        w->s->index[w->filled] = in_rect ? ha_key_at(w->run, w->u, w->task->rect, x)
                                          : (uint32_t)x;
        w->s->logw[w->filled] = 0;
        if (++w->filled == HA_TASK_KEYS)
            flush(w);
    }
}

static void attend_exact(work *w)
{
    const ha_rect *rect = w->task->rect;
    w->sampled = 0;
    for (int64_t i = 0; i < w->columns.exact.n; i++)
        exact_columns(w, ha_block_begin(&w->columns.exact, i), ha_block_end(&w->columns.exact, i), 1);
    for (int i = 0; i < 2; i++)
        exact_columns(w, rect->exact[i][0], rect->exact[i][1], 0);
    flush(w);
}

static void attend_sampled(work *w)
{
    int64_t draws = ha_sample_draws(&w->columns);
    w->sampled = 1;
    for (int64_t first = 0; first < draws; first += HA_TASK_KEYS) {
        w->filled = ha_sample(&w->columns, first, ha_min(HA_TASK_KEYS, draws - first), w->s->index,
                              w->s->logw);
        for (int64_t i = 0; i < w->filled; i++)
            w->s->index[i] = ha_key_at(w->run, w->u, w->task->rect, w->s->index[i]);
        flush(w);
    }
}

/* One run of queries: its block and other exact columns, then its samples, in one online softmax
 * that goes on from the waves before. With kappa_cap, the cap needs this rectangle's block sum
 * alone, so the earlier state is folded in at the end. */
static void attend_task(void *arg, int64_t i, int thread, int final)
{
    ha_run *run = arg;
    const ha_task *task = &run->tasks[i];
    ha_scratch *s = &run->scratch[thread];
    ha_unit *u = &run->units[task->unit];
    work w = {
        .run = run, .task = task, .u = u, .s = s, .thread = thread, .clock = ha_clock(run->plan),
        .columns = ha_hyper_columns(run, u, task->rect, task->head, &task->block),
    };
    int sorted = ha_is_sorted(&run->plan->params), capped = run->plan->params.kappa_cap > 0;
    const ha_state_rows at = {
        .unit = u, .head = task->head, .rows = task->rows, .first = task->rect->q0 + task->row0,
        .index = sorted ? u->qorder + task->head * u->layout->nq + task->rect->q0 + task->row0 : NULL,
    };
    ha_rows q = u->q[task->head];
    q.index = at.index;
    q.first = at.first;
    run->cpu->arith->load_q(s->q, &q, task->rows, run->plan->problem.head_dim);
    book(&w, HA_STAGE_GATHER);
    if (task->rect->first || capped)
        ha_state_clear(run, s, task->rows);
    else
        ha_state_load(run, s, &at);
    book(&w, HA_STAGE_STATE);
    attend_exact(&w);
    if (capped)
        ha_cap_prepare(run, s, task);
    attend_sampled(&w);
    if (capped)
        ha_cap_finish(run, s, task);
    if (capped && !task->rect->first)
        ha_state_merge(run, s, &at);
    if (final)
        ha_state_finish(run, s, &at);
    else
        ha_state_store(run, s, &at);
    book(&w, HA_STAGE_STATE);
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
