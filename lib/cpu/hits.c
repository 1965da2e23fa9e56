/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/hits.h"

#include <math.h>
#include <string.h>

/* Standard deviations of what codes leave out by which a guess may be low. */
#define MARGIN 2

/* Rows that columns are scored for at a time. */
#define SCORED_ROWS 16

static int64_t scored_rows(const ha_cpu_plan *plan)
{
    return ha_round_up(SCORED_ROWS, plan->kernels->f32.mr);
}

void ha_hits_carve(ha_carver *c, const ha_cpu_plan *plan, ha_hits *hits)
{
    const ha_arith *f32 = &plan->kernels->f32;
    int64_t cells = ha_round_up(ha_most_cells(plan), HA_CODE_KEYS);
    int64_t rows = ha_round_up(HA_BUNDLE_ROWS, f32->mr);
    hits->position = ha_carve(c, HA_BUNDLE_ROWS * HA_MOST_HITS, sizeof *hits->position);
    hits->votes = ha_carve(c, plan->max.nk, sizeof *hits->votes);
    hits->touched = ha_carve(c, cells, sizeof *hits->touched);
    hits->projection = ha_carve(c, rows * ha_round_up(HA_BASIS, f32->lanes), sizeof(float));
    hits->by_cell = ha_carve(c, scored_rows(plan) * cells, sizeof(float));
    hits->found = ha_carve(c, HA_MOST_HITS, sizeof *hits->found);
}

/* ---- one row --------------------------------------------------------------------------------- */

typedef struct scan {
    const ha_cpu_plan *plan;
    const ha_scanned *rows;
    ha_hits *hits;
    ha_recipe recipe;
    int64_t ncells, nsets;
} scan;

/* The keys whose guess is at least `least`. */
static int64_t scan_row(const scan *s, const float *projection, const float *by_cell, float least)
{
    int8_t q[HA_CODE];
    for (int64_t c = 0; c < HA_CODE; c++)
        q[c] = (int8_t)ha_code_of(s->rows->basis->factor[0] * projection[c]);
    const ha_scan keys = {
        .codes = s->rows->det->codes, .boxes = s->rows->det->boxes, .q = q, .score = by_cell,
        .scale = s->plan->problem->softmax_scale * HA_LOG2E, .least = least,
        .unit = s->rows->basis->unit, .nsets = s->nsets, .blocks = ha_code_blocks(&s->recipe),
        .hit = s->hits->found, .room = HA_MOST_HITS,
    };
    return s->plan->kernels->scan_codes(&keys);
}

/* Of n keys found, those that are keys of their own right: no sinks, of the past. Returns how many
 * hits there are then. */
static int64_t keep(const scan *s, int64_t n, int64_t kept)
{
    ha_hits *hits = s->hits;
    uint32_t slots = (uint32_t)ha_code_blocks(&s->recipe) * HA_CODE_KEYS;
    for (int64_t h = 0; h < n; h++) {
        uint32_t cell = hits->found[h] / slots, x = hits->found[h] % slots;
        int64_t position = cell * s->recipe.cell + x;
        if (x >= s->recipe.cell || position >= s->rows->past ||
            *ha_past_keys(s->rows->order, s->rows->era, position) < s->recipe.sinks)
            continue;
        hits->position[kept++] = (uint32_t)position;
        int votes = ++hits->votes[position];
        hits->touched[cell] = 1;
        hits->histogram[votes]++;
        hits->histogram[votes - 1]--;
    }
    return kept;
}

/* Finds row i's hits, behind `kept` others. What it sees in all is guessed from the cells as they
 * are for the era. */
static int64_t find_row(const scan *s, int64_t i, float *by_cell, int64_t kept)
{
    const ha_kernels *kernels = s->plan->kernels;
    const ha_scanned *rows = s->rows;
    const float *projection =
        s->hits->projection + i * ha_round_up(HA_BASIS, kernels->f32.lanes);
    float scale = s->plan->problem->softmax_scale * HA_LOG2E;
    float seen[2] = {kernels->log_sum_exp(rows->cells->mass, by_cell, scale, s->ncells),
                     rows->m[i] + log2f(rows->l[i])};
    float top = seen[0] > seen[1] ? seen[0] : seen[1];
    float least = top + log2f(exp2f(seen[0] - top) + exp2f(seen[1] - top)) -
                  s->recipe.depth * HA_LOG2E - MARGIN * rows->basis->left;
    if (!rows->finite[i] || !isfinite(least))
        return kept;
    for (int64_t x = 0; x < s->nsets * HA_CODE_KEYS; x++)
        if (x >= s->ncells || rows->cells->mass[x] == -INFINITY)
            by_cell[x] = NAN;
    int64_t n = scan_row(s, projection, by_cell, least);
    for (float step = 1; n == HA_MOST_HITS; step *= 2) { /* scores may be of any size */
        least += step;
        n = scan_row(s, projection, by_cell, least);
    }
    return keep(s, n, kept);
}

/* ---- a bundle -------------------------------------------------------------------------------- */

void ha_hits_find(const ha_cpu_plan *plan, ha_hits *hits, const ha_scanned *rows)
{
    const ha_kernels *kernels = plan->kernels;
    int64_t d = plan->problem->head_dim, ldk = ha_cells_ldk(plan), kept = 0;
    scan s = {plan, rows, hits,
              ha_recipe_of(plan->params, rows->kh->layout->nk, plan->problem->causal), 0, 0};
    s.ncells = (rows->past + s.recipe.cell - 1) / s.recipe.cell;
    s.nsets = (s.ncells + HA_CODE_KEYS - 1) / HA_CODE_KEYS;
    int64_t ld = s.nsets * HA_CODE_KEYS, step = scored_rows(plan);
    memset(hits->votes, 0, (size_t)rows->past);
    memset(hits->touched, 0, (size_t)s.ncells);
    memset(hits->histogram, 0, sizeof hits->histogram);
    kernels->project(hits->projection, ha_round_up(HA_BASIS, kernels->f32.lanes), rows->q, ldk,
                     rows->basis->packed[0], rows->n, d, HA_BASIS);
    for (int64_t first = 0; first < rows->n; first += step) {
        int64_t n = ha_min(step, rows->n - first);
        kernels->project(hits->by_cell, ld, rows->q + first * ldk, ldk, rows->det->columns, n, d,
                         ld);
        for (int64_t i = first; i < first + n; i++) {
            hits->begin[i] = kept;
            kept = find_row(&s, i, hits->by_cell + (i - first) * ld, kept);
        }
    }
    hits->begin[rows->n] = kept;
}
