/* SPDX-License-Identifier: Apache-2.0 */
#include "algo/multipole.h"

#include <math.h>

#include "int64.h"

/* ---- sizes ----------------------------------------------------------------------------------- */

/* Keys from which a past is worth more than attending to it exactly, beside three times the
 * selected ones. */
#define LEAST_PAST 64

/* What a budget buys at n = 8192. */
typedef struct preset {
    int budget;
    int window, selected, candidates, cell, far_cell;
    float depth;
} preset;

/* Where rows look for keys, many may be selected, and hardly any is missed for being in a cell that
 * was no candidate. Where they do not, cells and candidates are all there is. */
static const preset presets[] = {
    {324, 128, 1024, 128, 64, 256, 4},
    {710, 128, 1024, 256, 64, 128, 6},
    {1288, 256, 1024, 512, 64, 128, 7},
}, blind_presets[] = {
    {324, 256, 32, 128, 32, 256, -1},
    {710, 256, 128, 512, 32, 256, -1},
    {1288, 512, 256, 1024, 32, 256, -1},
};

#define DEFAULT_BUDGET 710

/* Deepest that a budget looks for keys: deeper ones are too many to be worth a look each. */
#define DEEPEST 8.0f

static int64_t round_up(int64_t x, int64_t to)
{
    return (x + to - 1) / to * to;
}

static int64_t between(int64_t low, int64_t high, double part)
{
    return low + (int64_t)((double)(high - low) * part + 0.5);
}

/* Numbers of keys and the depth go linearly with the budget, sizes of cells in steps. */
static preset buy(int budget, int blind)
{
    const preset *low = blind ? blind_presets : presets, *high = low + 1;
    if (budget >= high->budget)
        low = high++;
    double part = (double)(budget - low->budget) / (high->budget - low->budget);
    if (part < 0) {
        double share = (double)budget / low->budget;
        return (preset){budget, low->window, (int)(low->selected * share),
                        (int)(low->candidates * share), low->cell, low->far_cell, low->depth};
    }
    const preset *cells = part < 0.5 ? low : high;
    return (preset){
        budget,
        (int)between(low->window, high->window, part),
        (int)between(low->selected, high->selected, part),
        (int)between(low->candidates, high->candidates, part),
        cells->cell, cells->far_cell,
        fminf(DEEPEST, low->depth + (high->depth - low->depth) * (float)part),
    };
}

/* How many times n is above 8192, in powers of four: cells double with each, as the square root. */
static int doublings(int64_t nk)
{
    int n = 0;
    for (int64_t x = 4 * 8192; x <= nk && n < 8; x *= 4)
        n++;
    return n;
}

ha_recipe ha_recipe_of(const hyperattn_params *params, int64_t nq, int64_t nk, int causal)
{
    preset p = buy(params->budget ? params->budget : DEFAULT_BUDGET, params->private_depth < 0);
    int64_t cell = ha_min(HA_SHORT_STRETCH, (int64_t)p.cell << doublings(nk));
    int64_t far_cell = (int64_t)p.far_cell << doublings(nk);
    int64_t candidates = (int64_t)p.candidates << doublings(nk);
    cell = params->cell_size ? params->cell_size : cell;
    far_cell = params->far_cell_size ? params->far_cell_size : far_cell;
    candidates = params->num_candidates ? params->num_candidates : candidates;
    int64_t window = params->window ? params->window : p.window;
    int bits = 0;
    while (((int64_t)1 << bits) < cell)
        bits++;
    float depth = params->private_depth ? params->private_depth : p.depth;
    int64_t leaf = params->leaf_size ? params->leaf_size : 256;
    return (ha_recipe){
        .leaf = leaf,
        .window = causal ? round_up(window, HA_SHORT_STRETCH) : 0,
        .sinks = ha_min(params->num_sinks, nk),
        .selected = params->num_selected ? params->num_selected : p.selected,
        .candidates = (candidates + cell - 1) / cell,
        .depth = depth > 0 ? depth : 0,
        .cell = cell,
        .far_cell = round_up(far_cell, cell),
        .cell_bits = bits,
        .strict = params->strict_causal,
        .first = params->strict_causal ? round_up(ha_max(0, nk - nq), leaf) + leaf : 0,
    };
}

/* ---- leaves ---------------------------------------------------------------------------------- */

/* Whether to estimate so many keys is worth it. */
static int is_worth(const ha_recipe *recipe, int64_t keys)
{
    return keys - recipe->sinks > 3 * recipe->selected + LEAST_PAST;
}

int64_t ha_near_key(const ha_recipe *recipe, int64_t position)
{
    int64_t leaf = position / recipe->leaf * recipe->leaf;
    int64_t near = ha_max(0, leaf - recipe->window);
    return leaf >= recipe->first && is_worth(recipe, near) ? near : 0;
}

int ha_has_past(const ha_layout *layout, const hyperattn_params *params, int causal)
{
    const ha_recipe r = ha_recipe_of(params, layout->nq, layout->nk, causal);
    if (layout->nq < HA_LEAST_ROWS)
        return 0;
    return causal ? ha_near_key(&r, layout->nk - 1) > 0 : is_worth(&r, layout->nk);
}

static void add_leaf(ha_layout *l, const ha_leaf *leaf, int64_t keys)
{
    if (l->leaves)
        l->leaves[l->nleaves] = *leaf;
    l->nleaves++;
    l->max_leaf_rows = ha_max(l->max_leaf_rows, leaf->nq);
    l->max_leaf_keys = ha_max(l->max_leaf_keys, keys);
}

void ha_multipole_leaves(ha_layout *layout, const hyperattn_params *params, int causal)
{
    if (!causal)
        return;
    const ha_recipe recipe = ha_recipe_of(params, layout->nq, layout->nk, causal);
    int64_t shift = layout->nk - layout->nq; /* of a row's position among the keys */
    int64_t blind = ha_min(layout->nq, ha_max(0, -shift));
    if (blind) {
        ha_leaf none = {0, blind, 0, 1, 0};
        add_leaf(layout, &none, 0);
    }
    int64_t least = layout->nk;
    for (int64_t row = blind, end; row < layout->nq; row = end) {
        int64_t position = row + shift;
        end = ha_min(layout->nq, (position / recipe.leaf + 1) * recipe.leaf - shift);
        int64_t near = ha_near_key(&recipe, position);
        ha_leaf leaf = {row, end - row, near, 1, near > 0};
        add_leaf(layout, &leaf, end + shift - near);
        least = ha_min(least, near);
    }
    layout->leaf_key0 = least == layout->nk ? 0 : least;
    layout->leaf_classes = layout->max_leaf_keys / recipe.leaf + 1;
}

/* ---- eras ------------------------------------------------------------------------------------ */

/* The first row, at or behind `row`, whose leaf is near from `key` on or later. */
static int64_t row_with_near(const ha_layout *layout, const ha_recipe *recipe, int64_t key)
{
    int64_t shift = layout->nk - layout->nq;
    int64_t position = ha_max(round_up(key + recipe->window, recipe->leaf), recipe->first);
    while (ha_near_key(recipe, position) == 0 && position < layout->nk)
        position += recipe->leaf;
    return ha_max(ha_max(0, -shift), ha_min(layout->nq, position - shift));
}

int64_t ha_eras_of(const ha_layout *layout, int causal)
{
    int64_t n = causal ? layout->nk : layout->nq;
    return layout->estimated ? (n + HA_LONG_STRETCH - 1) / HA_LONG_STRETCH : 0;
}

/* Eras of the epoch that begins with era `first`. So a key is expanded a few times in all, however
 * many there are. */
static int64_t epoch_length(const ha_layout *layout, int causal, int64_t first)
{
    return ha_max(1, causal ? first / 4 : ha_eras_of(layout, causal) / 4);
}

int64_t ha_epoch_of(const ha_layout *layout, int causal, int64_t number)
{
    int64_t first = 0, next = 0;
    for (; next <= number; next += epoch_length(layout, causal, first))
        first = next;
    return first;
}

static ha_era rows_of_era(const ha_layout *layout, const ha_recipe *recipe, int causal,
                          int64_t number)
{
    int64_t start = number * HA_LONG_STRETCH, nk = layout->nk;
    if (!causal)
        return (ha_era){start, ha_min(HA_LONG_STRETCH, layout->nq - start), nk, nk, nk, 0, 0};
    int64_t q0 = row_with_near(layout, recipe, start);
    int64_t nq = ha_max(0, row_with_near(layout, recipe, start + HA_LONG_STRETCH) - q0);
    if (!nq)
        return (ha_era){q0, 0, start, start, start, 0, 0};
    int64_t first = q0 + nk - layout->nq, last = first + nq - 1;
    return (ha_era){q0, nq, start, ha_near_key(recipe, last), ha_near_key(recipe, first), 0, 0};
}

/* Cells that an era and the next one have in common: those of long stretches. */
static int64_t kept_between(const ha_layout *layout, int causal, const ha_era *era,
                            const ha_era *next, int64_t number)
{
    int same = ha_epoch_of(layout, causal, number) == ha_epoch_of(layout, causal, number + 1);
    return same && era->nq && next->nq ? era->old : 0;
}

ha_era ha_era_at(const ha_layout *layout, const ha_recipe *recipe, int causal, int64_t number)
{
    ha_era era = rows_of_era(layout, recipe, causal, number);
    if (number > 0) {
        const ha_era before = rows_of_era(layout, recipe, causal, number - 1);
        era.fresh = kept_between(layout, causal, &before, &era, number - 1);
    }
    if (number + 1 < ha_eras_of(layout, causal)) {
        const ha_era next = rows_of_era(layout, recipe, causal, number + 1);
        era.kept = kept_between(layout, causal, &era, &next, number);
    }
    return era;
}

ha_era ha_epoch_at(const ha_layout *layout, const ha_recipe *recipe, int causal, int64_t number)
{
    int64_t first = ha_epoch_of(layout, causal, number);
    int64_t end = ha_min(ha_eras_of(layout, causal), first + epoch_length(layout, causal, first));
    ha_era epoch = {0, 0, 0, 0, 0, 0, 0};
    for (; first < end; first++) {
        const ha_era era = rows_of_era(layout, recipe, causal, first);
        if (epoch.nq == 0)
            epoch = era;
        else
            epoch.nq += era.nq;
        epoch.end = era.end;
    }
    if (recipe->strict && epoch.nq) {
        int64_t from = ha_max(layout->nq - layout->nk, epoch.q0 - HA_LONG_STRETCH);
        epoch.nq = epoch.q0 - ha_max(0, from);
        epoch.q0 -= epoch.nq;
    }
    return epoch;
}

/* ---- bundles --------------------------------------------------------------------------------- */

/* Positions that bundles do not cross. */
static int64_t step_of(const ha_recipe *recipe, int causal)
{
    return causal ? recipe->leaf : HA_LONG_STRETCH;
}

static int64_t position_of(const ha_layout *layout, int causal, int64_t row)
{
    return causal ? row + layout->nk - layout->nq : row;
}

int64_t ha_era_bundles(const ha_layout *layout, const ha_recipe *recipe, int causal,
                       const ha_era *era)
{
    if (era->nq <= 0)
        return 0;
    int64_t step = step_of(recipe, causal), per_step = (step + HA_BUNDLE_ROWS - 1) / HA_BUNDLE_ROWS;
    int64_t first = position_of(layout, causal, era->q0) / step;
    int64_t last = position_of(layout, causal, era->q0 + era->nq - 1) / step;
    return (last - first + 1) * per_step;
}

ha_bundle ha_bundle_at(const ha_layout *layout, const ha_recipe *recipe, int causal,
                       const ha_era *era, int64_t number)
{
    int64_t step = step_of(recipe, causal), per_step = (step + HA_BUNDLE_ROWS - 1) / HA_BUNDLE_ROWS;
    int64_t position = position_of(layout, causal, era->q0);
    int64_t begin = (position / step + number / per_step) * step; /* of the leaf or stretch */
    int64_t from = ha_max(position, begin), to = ha_min(position + era->nq, begin + step);
    int64_t first = from + number % per_step * HA_BUNDLE_ROWS;
    ha_bundle b = {first - position + era->q0, ha_min(HA_BUNDLE_ROWS, to - first), era->end};
    if (causal)
        b.past = ha_near_key(recipe, begin);
    return b;
}
