/* SPDX-License-Identifier: Apache-2.0 */
#include "algo/hyper.h"

#include "int64.h"

ha_picker ha_picker_begin(const ha_sampler *sampler, const ha_rect *rect, const uint32_t *korder)
{
    return (ha_picker){.sampler = *sampler, .rect = rect, .korder = korder};
}

ha_picker ha_picker_begin_sampled(const ha_sampler *sampler, const ha_rect *rect,
                                  const uint32_t *korder)
{
    ha_picker p = ha_picker_begin(sampler, rect, korder);
    p.span = sampler->exact.n + 2;
    return p;
}

/* Exact span i: the blocks' positions, then sinks and window, whose keys the rectangle lacks. */
static int exact_span(const ha_picker *p, int64_t i, int64_t *begin, int64_t *end)
{
    const ha_blocks *blocks = &p->sampler.exact;
    if (i < blocks->n) {
        *begin = ha_block_begin(blocks, i);
        *end = ha_block_end(blocks, i);
    } else if (i < blocks->n + 2) {
        *begin = p->rect->pinned[i - blocks->n][0];
        *end = p->rect->pinned[i - blocks->n][1];
    }
    return i < blocks->n + 2;
}

static void pick_exact(ha_picker *p, ha_picks *to)
{
    int64_t begin, end;
    while (to->n < to->room && exact_span(p, p->span, &begin, &end)) {
        int64_t first = begin + p->taken, n = ha_min(to->room - to->n, end - first);
        int is_block = p->span < p->sampler.exact.n;
        for (int64_t x = 0; x < n; x++) {
            to->key[to->n + x] = is_block ? ha_key_at(p->rect, p->korder, first + x)
                                          : (uint32_t)(first + x);
            to->logw[to->n + x] = 0;
        }
        to->n += n;
        p->taken += n;
        if (begin + p->taken == end) {
            p->span++;
            p->taken = 0;
        }
    }
}

static void pick_sampled(ha_picker *p, ha_picks *to)
{
    int64_t draws = ha_min(to->room, ha_sample_draws(&p->sampler) - p->drawn);
    to->n = ha_sample(&p->sampler, p->drawn, draws, to->key, to->logw);
    for (int64_t i = 0; i < to->n; i++)
        to->key[i] = ha_key_at(p->rect, p->korder, to->key[i]);
    p->drawn += draws;
}

int ha_pick(ha_picker *p, ha_picks *to)
{
    to->n = 0;
    to->kind = HA_EXACT_COLUMNS;
    pick_exact(p, to);
    while (!to->n && p->drawn < ha_sample_draws(&p->sampler)) {
        to->kind = HA_SAMPLED_COLUMNS;
        pick_sampled(p, to); /* none, where all V-norm draws fell into exact blocks */
    }
    return to->n > 0;
}

int64_t ha_list_tasks(ha_task *tasks, const ha_rect *rect, const uint32_t *bounds,
                      int32_t key_head, int32_t head)
{
    int64_t n = 0;
    for (int64_t t = 0; t < rect->nruns; t++)
        for (int64_t row = bounds[t]; row < bounds[t + 1]; row += HA_TASK_ROWS)
            tasks[n++] = (ha_task){
                .rect = rect, .key_head = key_head, .head = head, .run = t, .row0 = row,
                .rows = ha_min(HA_TASK_ROWS, bounds[t + 1] - row),
            };
    return n;
}
