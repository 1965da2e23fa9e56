/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/hits.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* Standard deviations of what codes leave out by which a guess may be low. */
#define MARGIN 2

void ha_hits_carve(ha_carver *c, const ha_cpu_plan *plan, ha_hits *hits)
{
    const ha_arith *f32 = &plan->kernels->f32;
    int64_t cells = ha_round_up(ha_most_cells(plan), HA_CODE_KEYS);
    int64_t rows = ha_rows_scored(plan);
    hits->position = ha_carve(c, HA_BUNDLE_ROWS * HA_MOST_HITS, sizeof *hits->position);
    hits->votes = ha_carve(c, plan->max.nk, sizeof *hits->votes);
    hits->touched = ha_carve(c, cells, sizeof *hits->touched);
    hits->projection = ha_carve(c, rows * ha_round_up(HA_BASIS, f32->lanes), sizeof(float));
    hits->by_cell = ha_carve(c, rows * cells, sizeof(float));
    hits->found = ha_carve(c, rows * HA_MOST_HITS, sizeof *hits->found);
}

/* ---- a row ----------------------------------------------------------------------------------- */

typedef struct scan {
    const ha_cpu_plan *plan;
    const ha_scanned *rows;
    ha_hits *hits;
    ha_recipe recipe;
    int64_t ncells, nsets;
    int slot_bits; /* places of a cell among what is found, as a power of two */
    float scale;
} scan;

/* log2 of a row's past, from the cells as they are for the era. */
static float past_of(const scan *s, const float *by_cell)
{
    return s->plan->kernels->log_sum_exp(s->rows->cells->mass, by_cell, s->scale, s->ncells);
}

/* Of n places found, those that are positions of the past: a cell can have more places than keys.
 * Returns how many hits there are then, with `kept` others before. */
static int64_t keep(const scan *s, const uint32_t *found, int64_t n, int64_t kept)
{
    ha_hits *hits = s->hits;
    const int64_t past = s->rows->past;
    const uint32_t slots = (1u << s->slot_bits) - 1;
    for (int64_t h = 0; h < n; h++) {
        uint32_t cell = found[h] >> s->slot_bits, x = found[h] & slots;
        int64_t position = ((int64_t)cell << s->recipe.cell_bits) + x;
        if (x >= s->recipe.cell || position >= past)
            continue;
        hits->position[kept++] = (uint32_t)position;
        hits->votes[position]++;
        hits->touched[cell] = 1;
    }
    return kept;
}

/* Nothing is hit in a cell without keys, nor behind the last one. */
static void bar_cells(const scan *s, float *by_cell, int64_t n)
{
    int64_t ld = s->nsets * HA_CODE_KEYS;
    for (int64_t x = 0; x < ld; x++)
        if (x >= s->ncells || s->rows->cells->mass[x] == -INFINITY)
            for (int64_t i = 0; i < n; i++)
                by_cell[i * ld + x] = NAN;
}

/* ---- some rows ------------------------------------------------------------------------------- */

/* By how much a guess may be low: more for a row that is longer than others. */
static float margin_of(const scan *s, const float *projection)
{
    const ha_epoch_basis *b = s->rows->basis;
    float square = 0;
    for (int64_t c = 0; c < HA_CODE; c++)
        square += projection[c] * projection[c];
    float longer = sqrtf(square) / b->size;
    return MARGIN * b->left * (longer > 1 ? longer : 1);
}

typedef struct row_codes {
    int8_t *q;
    float *unit, *least;
} row_codes;

/* The code of a row in its directions. Its largest number is as large as can be, whatever the row's
 * size: the row has a unit of its own, which is returned. */
static float encode(const scan *s, const float *projection, int8_t *q)
{
    const ha_epoch_basis *b = s->rows->basis;
    float most = FLT_MIN;
    for (int64_t c = 0; c < HA_CODE; c++)
        most = fabsf(projection[c]) > most ? fabsf(projection[c]) : most;
    float factor = (s->scale < 0 ? -HA_CODE_LARGEST : HA_CODE_LARGEST) / most;
    for (int64_t c = 0; c < HA_CODE; c++)
        q[c] = (int8_t)ha_code_of(factor * projection[c]);
    float unit = fabsf(s->scale) / (fabsf(factor) * b->factor);
    return unit > FLT_MIN ? unit : FLT_MIN;
}

/* Rows from `first` on that are scanned together: what by_cell is about, and what is sought. */
static void begin_rows(const scan *s, const ha_scan *keys, const row_codes *codes, int64_t first)
{
    const ha_kernels *kernels = s->plan->kernels;
    const ha_scanned *rows = s->rows;
    int64_t ldk = ha_cells_ldk(s->plan), ldp = ha_round_up(HA_BASIS, kernels->f32.lanes);
    int64_t d = s->plan->problem->head_dim, ld = s->nsets * HA_CODE_KEYS;
    float *by_cell = s->hits->by_cell;
    kernels->project(s->hits->projection, ldp, rows->q + first * ldk, ldk, rows->basis->packed[0],
                     keys->rows, d, HA_BASIS);
    kernels->project(by_cell, ld, rows->q + first * ldk, ldk, rows->det->columns, keys->rows, d,
                     ld);
    for (int64_t i = 0; i < keys->rows; i++) {
        const float *projection = s->hits->projection + i * ldp;
        float least = past_of(s, by_cell + i * ld) + rows->near - s->recipe.depth * HA_LOG2E -
                      margin_of(s, projection);
        codes->unit[i] = encode(s, projection, codes->q + i * HA_CODE);
        codes->least[i] = rows->finite[first + i] && isfinite(least) ? least : NAN;
    }
    bar_cells(s, by_cell, keys->rows);
}

/* By how much a row's least score is raised while too much is found: a large step would leave out
 * keys that there is room for. */
#define SMALL_STEP 0.5f
#define SMALL_STEPS 16

/* Scans row i of them again while it hits more than there is room for: scores may be of any
 * size. */
static void scan_again(const scan *s, const ha_scan *all, int64_t i)
{
    ha_scan one = *all;
    float least = all->least[i];
    one.rows = 1;
    one.q += i * HA_CODE;
    one.score += i * s->nsets * HA_CODE_KEYS;
    one.least = &least;
    one.unit += i;
    one.hit += i * all->room;
    one.found += i;
    float step = SMALL_STEP;
    for (int times = 1; *one.found == one.room; times++) {
        least += step;
        step *= times < SMALL_STEPS ? 1 : 2;
        s->plan->kernels->scan_codes(&one);
    }
}

/* Whether rows [0, end) are, with `kept` hits of those before the last n. A row without room for
 * all its hits counts for two. */
static int are_crowded(const scan *s, const int64_t *found, int64_t n, int64_t end, int64_t kept)
{
    int64_t past = s->rows->past;
    for (int64_t i = 0; i < n; i++)
        kept += found[i] < HA_MOST_HITS ? found[i] : 2 * HA_MOST_HITS;
    return past <= HA_CROWDED_PAST && kept * HA_CROWDED >= end * past;
}

/* Rows from `first` on. Returns how many hits there are then, with `kept` before. */
static int64_t find_rows(const scan *s, int64_t first, int64_t n, int64_t kept)
{
    ha_hits *hits = s->hits;
    int8_t q[HA_SCAN_ROWS * HA_CODE];
    float least[HA_SCAN_ROWS], unit[HA_SCAN_ROWS];
    const row_codes codes = {q, unit, least};
    int64_t found[HA_SCAN_ROWS];
    ha_scan keys = {
        .codes = s->rows->det->codes, .boxes = s->rows->det->boxes, .nsets = s->nsets,
        .blocks = ha_code_blocks(&s->recipe), .rows = (int)n, .q = q, .score = hits->by_cell,
        .least = least, .unit = unit, .scale = s->scale, .hit = hits->found,
        .room = HA_MOST_HITS, .found = found,
    };
    begin_rows(s, &keys, &codes, first);
    s->plan->kernels->scan_codes(&keys);
    hits->crowded = are_crowded(s, found, n, first + n, kept);
    for (int64_t i = 0; i < n && !hits->crowded; i++) {
        if (found[i] == keys.room)
            scan_again(s, &keys, i);
        hits->begin[first + i] = kept;
        kept = keep(s, hits->found + i * keys.room, found[i], kept);
    }
    return kept;
}

/* ---- a bundle -------------------------------------------------------------------------------- */

static scan begin_scan(const ha_cpu_plan *plan, ha_hits *hits, const ha_scanned *rows)
{
    const ha_recipe r = ha_recipe_for(plan, rows->kh->layout);
    scan s = {.plan = plan, .rows = rows, .hits = hits, .recipe = r};
    s.ncells = (rows->past + r.cell - 1) / r.cell;
    s.nsets = (s.ncells + HA_CODE_KEYS - 1) / HA_CODE_KEYS;
    s.scale = plan->problem->softmax_scale * HA_LOG2E;
    while (1 << s.slot_bits < ha_code_blocks(&r) * HA_CODE_KEYS)
        s.slot_bits++;
    return s;
}

void ha_hits_find(const ha_cpu_plan *plan, ha_hits *hits, const ha_scanned *rows)
{
    const scan s = begin_scan(plan, hits, rows);
    memset(hits->votes, 0, (size_t)rows->past);
    memset(hits->touched, 0, (size_t)s.ncells);
    int64_t step = ha_rows_scored(plan), kept = 0;
    hits->crowded = 0;
    for (int64_t first = 0; first < rows->n && !hits->crowded; first += step)
        kept = find_rows(&s, first, ha_min(step, rows->n - first), kept);
    hits->begin[rows->n] = kept;
}

/* ---- what is near ---------------------------------------------------------------------------- */

/* The place, in ascending order, of the value that is taken of so many. A lower one costs hits, a
 * higher one misses more of them. */
#define TAKEN_PART 0.25

float ha_hits_near(const ha_cpu_plan *plan, ha_hits *hits, const ha_scanned *rows, const float *m,
                   const float *l)
{
    const scan s = begin_scan(plan, hits, rows);
    int64_t ld = s.nsets * HA_CODE_KEYS, n = 0;
    float part[HA_NEAR_ROWS];
    plan->kernels->project(hits->by_cell, ld, rows->q, ha_cells_ldk(plan), rows->det->columns,
                           rows->n, plan->problem->head_dim, ld);
    for (int64_t i = 0; i < rows->n; i++) {
        float near = m[i] + log2f(l[i]) - past_of(&s, hits->by_cell + i * ld);
        if (!isfinite(near))
            continue;
        near = near > 0 ? near + log2f(1 + exp2f(-near)) : log2f(1 + exp2f(near));
        int64_t x = n++;
        for (; x > 0 && part[x - 1] > near; x--)
            part[x] = part[x - 1];
        part[x] = near;
    }
    return n ? part[(int64_t)((double)n * TAKEN_PART)] : 0;
}

/* ---- votes ----------------------------------------------------------------------------------- */

void ha_hits_keep_below(ha_hits *hits, int votes, int64_t rows)
{
    int64_t kept = 0, from = 0;
    for (int64_t i = 0; i < rows; i++) {
        int64_t end = hits->begin[i + 1];
        for (hits->begin[i] = kept; from < end; from++) {
            hits->position[kept] = hits->position[from];
            kept += hits->votes[hits->position[from]] < votes;
        }
    }
    hits->begin[rows] = kept;
}
