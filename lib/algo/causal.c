/* SPDX-License-Identifier: Apache-2.0 */
#include "algo/causal.h"

#include "algo/multipole.h"
#include "int64.h"

typedef struct builder {
    ha_layout *layout;
    const hyperattn_params *params;
    int64_t row0, key0; /* the causal square's first row and key */
    int64_t bounds;     /* of the current wave */
    int64_t tasks;
    int64_t wave_rects;
    int deepest; /* depth of the recursion */
    int causal;
} builder;

static int64_t runs_of(const builder *b, const ha_rect *r)
{
    if (b->params->block_mask)
        return 1;
    int64_t n = b->params->heavy == HYPERATTN_HEAVY_NONE ? r->nq : r->nk;
    return ha_max(1, (n + b->params->block_size - 1) / b->params->block_size);
}

static void add_rect(builder *b, ha_rect r)
{
    r.nruns = runs_of(b, &r);
    r.bounds = b->bounds;
    b->bounds += r.nruns + 1;
    b->tasks += r.nruns + r.nq / HA_TASK_ROWS + 1;
    b->wave_rects++;
    if (b->layout->rects)
        b->layout->rects[b->layout->nrects] = r;
    b->layout->nrects++;
}

static void add_leaf(builder *b, ha_leaf leaf)
{
    ha_layout *l = b->layout;
    int64_t keys = ha_leaf_limit(l, &leaf, b->causal, leaf.nq - 1) - leaf.k0;
    if (l->leaves)
        l->leaves[l->nleaves] = leaf;
    l->nleaves++;
    l->max_leaf_rows = ha_max(l->max_leaf_rows, leaf.nq);
    l->max_leaf_keys = ha_max(l->max_leaf_keys, keys);
}

static void end_wave(builder *b)
{
    ha_layout *l = b->layout;
    if (!b->wave_rects)
        return;
    l->max_rects = ha_max(l->max_rects, b->wave_rects);
    l->max_bounds = ha_max(l->max_bounds, b->bounds);
    l->max_tasks = ha_max(l->max_tasks, b->tasks);
    l->nwaves++;
    if (l->wave)
        l->wave[l->nwaves] = l->nrects;
    b->wave_rects = b->bounds = b->tasks = 0;
}

/* A rectangle of rows against keys [k0, k1), with its sinks and the keys from window on pinned. */
static ha_rect make_rect(const builder *b, int64_t q0, int64_t nq, int64_t k0, int64_t k1,
                         int64_t window, int fresh)
{
    int64_t sinks = ha_max(k0, ha_min(b->params->num_sinks, k1));
    window = ha_max(sinks, ha_min(window, k1));
    return (ha_rect){
        .q0 = q0, .nq = nq, .k0 = sinks, .nk = window - sinks,
        .pinned = {{k0, sinks}, {window, k1}}, .fresh = fresh,
    };
}

/* Rows that start right behind keys [k0, k1). The first window - 1 of them have their window reach
 * back over k1; they form a rectangle of their own (near), in a wave of its own because it shares
 * keys with that of the others. */
static void add_rectangle(builder *b, int64_t q0, int64_t nq, int64_t k0, int64_t k1, int fresh,
                          int near)
{
    int64_t reach = ha_min(nq, ha_max(0, (int64_t)b->params->window - 1));
    if (near && reach)
        add_rect(b, make_rect(b, q0, reach, k0, k1, k1 - b->params->window + 1, fresh));
    if (!near && reach < nq)
        add_rect(b, make_rect(b, q0 + reach, nq - reach, k0, k1, k1, fresh));
}

/* Where [a, a + n) of the square is cut in two. */
static int64_t half(int64_t n)
{
    return ha_max(HA_SPLIT, (n / 2 + HA_SPLIT / 2) / HA_SPLIT * HA_SPLIT);
}

static int is_leaf(const builder *b, int64_t n)
{
    return n <= ha_max(HA_SPLIT, b->params->min_seq_len);
}

/* The rectangles of the recursion at depth `wanted`, left to right; wanted < 0: the leaves. */
static void recurse(builder *b, int64_t a, int64_t n, int depth, int wanted, int near)
{
    int fresh = a == 0 && b->key0 == 0;
    if (is_leaf(b, n)) {
        if (wanted < 0)
            add_leaf(b, (ha_leaf){b->row0 + a, n, b->key0 + a, fresh, 0});
        return;
    }
    if (depth > b->deepest)
        b->deepest = depth;
    int64_t left = half(n);
    if (depth == wanted)
        add_rectangle(b, b->row0 + a + left, n - left, b->key0 + a, b->key0 + a + left, fresh,
                      near);
    if (depth != wanted) {
        recurse(b, a, left, depth + 1, wanted, near);
        recurse(b, a + left, n - left, depth + 1, wanted, near);
    }
}

/* Algorithm 4 on the square; the keys before it are one more rectangle. */
static void build_recursion(builder *b, int64_t n)
{
    b->deepest = -1;
    recurse(b, 0, n, 0, -1, 0);
    for (int near = 0; near < 2; near++) {
        if (b->key0)
            add_rectangle(b, b->row0, n, 0, b->key0, 1, near);
        end_wave(b);
    }
    for (int depth = 0; depth <= b->deepest; depth++)
        for (int near = 0; near < 2; near++) {
            recurse(b, 0, n, 0, depth, near);
            end_wave(b);
        }
}

/* Each query block is a rectangle against the keys before its own causal ones. */
static void build_causal_mask(builder *b, int64_t nq)
{
    int64_t step = b->params->block_mask->query_block;
    /* A leaf's keys begin up to HA_SPLIT - 1 before its rows' own. */
    b->layout->leaf_classes = 2 + (HA_SPLIT - 1) / step;
    for (int64_t row = 0, end; row < nq; row = end) {
        end = ha_min(nq, (row / step + 1) * step);
        if (end <= b->row0)
            continue;
        int64_t q0 = ha_max(row, b->row0), x = q0 - b->row0;
        int64_t k1 = b->key0 + x / HA_SPLIT * HA_SPLIT;
        int64_t window = b->params->window ? b->key0 + x - b->params->window + 1 : k1;
        if (k1 > 0) {
            ha_rect r = make_rect(b, q0, end - q0, 0, k1, window, 1);
            r.mask_row = row / step;
            add_rect(b, r);
        }
        add_leaf(b, (ha_leaf){q0, end - q0, k1, k1 == 0, 0});
    }
    end_wave(b);
}

static void build_full_mask(builder *b, int64_t nq, int64_t nk)
{
    int64_t step = b->params->block_mask->query_block;
    for (int64_t row = 0; row < nq; row += step) {
        ha_rect r = make_rect(b, row, ha_min(step, nq - row), 0, nk, nk, 1);
        r.mask_row = row / step;
        add_rect(b, r);
    }
    end_wave(b);
}

void ha_layout_build(ha_layout *layout, const hyperattn_params *params, int causal)
{
    int64_t nq = layout->nq, nk = layout->nk;
    builder b = {
        .layout = layout, .params = params, .causal = causal, .row0 = ha_max(0, nq - nk),
        .key0 = ha_max(0, nk - nq),
    };
    layout->nrects = layout->nleaves = layout->nwaves = 0;
    layout->leaf_key0 = b.key0;
    layout->leaf_classes = 1;
    layout->estimated = params->method == HYPERATTN_MULTIPOLE &&
                        ha_has_past(layout, params, causal);
    if (layout->wave)
        layout->wave[0] = 0;
    if (!nq)
        return;
    if (ha_layout_is_exact(layout, params)) {
        layout->leaf_key0 = 0;
        add_leaf(&b, (ha_leaf){0, nq, 0, 1, 0});
        return;
    }
    if (params->method == HYPERATTN_MULTIPOLE) {
        ha_multipole_leaves(layout, params, causal);
        return;
    }
    if (causal && b.row0) /* rows that see no key */
        add_leaf(&b, (ha_leaf){0, b.row0, 0, 1, 0});
    if (!causal && params->block_mask)
        build_full_mask(&b, nq, nk);
    else if (!causal) {
        add_rect(&b, make_rect(&b, 0, nq, 0, nk, nk, 1));
        end_wave(&b);
    } else if (nq - b.row0 > 0 && params->block_mask)
        build_causal_mask(&b, nq);
    else if (nq - b.row0 > 0)
        build_recursion(&b, nq - b.row0);
}
