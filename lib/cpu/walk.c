/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/walk.h"

#include "int64.h"

/* The predefined mask's key blocks for a query block. */
static ha_blocks mask_blocks(const ha_plan *plan, const ha_unit *u, const ha_rect *rect,
                             int64_t head)
{
    const hyperattn_block_mask *mask = plan->params->block_mask;
    int64_t rows = 1 + (plan->problem->seqlen_q - 1) / mask->query_block, row = rect->mask_row;
    if (mask->per_head)
        row += (u->head0 + head) % plan->problem->nheads * rows;
    return (ha_blocks){
        .block = mask->key_blocks + mask->row_start[row],
        .n = mask->row_start[row + 1] - mask->row_start[row],
        .width = mask->key_block,
        .origin = rect->k0,
        .total = rect->nk,
    };
}

ha_sampler ha_walk_sampler(const ha_run *run, const ha_unit *u, const ha_rect *rect, int64_t head,
                            const int64_t *t)
{
    const hyperattn_params *p = run->plan->params;
    ha_blocks exact = {.block = t, .n = ha_is_sorted(run->plan->params), .width = p->block_size,
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

ha_walk ha_walk_begin(const ha_run *run, const ha_task *task)
{
    return (ha_walk){
        .run = run,
        .task = task,
        .columns = ha_walk_sampler(run, &run->units[task->unit], task->rect, task->head,
                                    &task->block),
    };
}

/* Exact range i: the blocks' positions, then sinks and window, whose keys the rectangle lacks. */
static int exact_range(const ha_walk *w, int64_t i, int64_t *begin, int64_t *end)
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

static void next_exact(ha_walk *w, ha_columns *c)
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

static void next_sampled(ha_walk *w, ha_columns *c)
{
    int64_t draws = ha_min(HA_TASK_KEYS, ha_sample_draws(&w->columns) - w->drawn);
    c->n = ha_sample(&w->columns, w->drawn, draws, c->key, c->logw);
    for (int64_t i = 0; i < c->n; i++)
        c->key[i] = ha_key_at(w->run, &w->run->units[w->task->unit], w->task->rect, c->key[i]);
    w->drawn += draws;
}

int ha_walk_next(ha_walk *w, ha_columns *c)
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
