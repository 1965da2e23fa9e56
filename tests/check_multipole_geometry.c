/* SPDX-License-Identifier: Apache-2.0
 *
 * What MULTIPOLE decides without looking at scores: the leaves, eras and bundles of a sequence,
 * under which every key that a row sees is near or past, and is so once.
 */
#include "algo/causal.h"
#include "algo/multipole.h"
#include "checkmain.h"

/* ---- a sequence ------------------------------------------------------------------------------ */

typedef struct sequence {
    hyperattn_params params;
    ha_recipe recipe;
    ha_layout layout;
    int causal;
    uint32_t *old, *young; /* some order within stretches */
    int *done;             /* [nq]: bundles that hold the row */
} sequence;

static void shuffle(uint32_t *x, int64_t n, rng *r)
{
    for (int64_t i = n - 1; i > 0; i--) {
        int64_t other = rng_below(r, i + 1);
        uint32_t keep = x[i];
        x[i] = x[other];
        x[other] = keep;
    }
}

static uint32_t *shuffled_stretches(int64_t nk, int64_t stretch, rng *r)
{
    uint32_t *x = malloc((size_t)(nk + 1) * sizeof *x);
    for (int64_t j = 0; j < nk; j++)
        x[j] = (uint32_t)j;
    for (int64_t j = 0; j < nk; j += stretch)
        shuffle(x + j, nk - j < stretch ? nk - j : stretch, r);
    return x;
}

static sequence sequence_new(int64_t nq, int64_t nk, int causal, const hyperattn_params *params)
{
    rng r = rng_new((uint64_t)(nq + nk));
    sequence s = {.params = *params, .layout = {.nq = nq, .nk = nk}, .causal = causal};
    s.recipe = ha_recipe_of(params, nq, nk, causal);
    ha_layout_build(&s.layout, params, causal);
    s.layout.leaves = calloc((size_t)s.layout.nleaves + 1, sizeof *s.layout.leaves);
    s.layout.wave = calloc((size_t)s.layout.nwaves + 1, sizeof *s.layout.wave);
    ha_layout_build(&s.layout, params, causal);
    s.old = shuffled_stretches(nk, HA_LONG_STRETCH, &r);
    s.young = shuffled_stretches(nk, HA_SHORT_STRETCH, &r);
    s.done = calloc((size_t)nq + 1, sizeof *s.done);
    return s;
}

static void sequence_free(sequence *s)
{
    free(s->layout.leaves);
    free(s->layout.wave);
    free(s->old);
    free(s->young);
    free(s->done);
}

/* Cells at the positions before `past` hold each key before it once, and no other. */
static const char *check_past(const sequence *s, const ha_era *era, int64_t past)
{
    char *seen = calloc((size_t)past + 1, 1);
    const char *why = NULL;
    for (int64_t first = 0; first < past && !why; first += s->recipe.cell) {
        int64_t end = first + s->recipe.cell < past ? first + s->recipe.cell : past;
        if (first < era->old && end > era->old)
            why = failure("a cell crosses %lld", (long long)era->old);
        for (int64_t x = first; x < end && !why; x++) {
            int64_t key = (first < era->old ? s->old : s->young)[x];
            if (key >= past || seen[key]++)
                why = failure("key %lld is %s the past of %lld keys", (long long)key,
                              key >= past ? "behind" : "twice in", (long long)past);
        }
    }
    free(seen);
    return why;
}

/* The leaf of a row; NULL without a mask. */
static const ha_leaf *leaf_of(const sequence *s, int64_t row)
{
    for (int64_t x = 0; x < s->layout.nleaves; x++)
        if (row >= s->layout.leaves[x].q0 &&
            row < s->layout.leaves[x].q0 + s->layout.leaves[x].nq)
            return &s->layout.leaves[x];
    return NULL;
}

static const char *check_bundle(sequence *s, const ha_era *era, const ha_bundle *b, int64_t *known)
{
    const ha_leaf *leaf = leaf_of(s, b->first);
    if (b->rows > HA_BUNDLE_ROWS || b->first < era->q0 ||
        b->first + b->rows > era->q0 + era->nq)
        return failure("rows [%lld, + %lld) in the era of [%lld, + %lld)", (long long)b->first,
                       (long long)b->rows, (long long)era->q0, (long long)era->nq);
    for (int64_t row = b->first; row < b->first + b->rows; row++) {
        s->done[row]++;
        if (leaf_of(s, row) != leaf)
            return failure("row %lld is in another leaf than %lld", (long long)row,
                           (long long)b->first);
    }
    if (s->causal ? !leaf || b->past != leaf->k0 : b->past != s->layout.nk)
        return failure("the past of row %lld ends at %lld, not where it is near",
                       (long long)b->first, (long long)b->past);
    if (b->past > era->end || era->old > b->past)
        return failure("a past of %lld keys in an era of %lld to %lld", (long long)b->past,
                       (long long)era->old, (long long)era->end);
    if (b->past == *known)
        return NULL;
    *known = b->past;
    return check_past(s, era, b->past);
}

/* Rows of leaves without a past, and the others, each of which one bundle holds. */
static const char *check_rows(const sequence *s)
{
    for (int64_t row = 0; row < s->layout.nq; row++) {
        const ha_leaf *leaf = leaf_of(s, row);
        int64_t position = row + s->layout.nk - s->layout.nq;
        int wanted = s->causal ? position >= 0 && leaf && leaf->partial
                               : s->layout.estimated;
        if (s->causal && !leaf)
            return failure("row %lld is in no leaf", (long long)row);
        if (s->causal && !leaf->partial && leaf->k0 != 0)
            return failure("row %lld is near from %lld on, without a past", (long long)row,
                           (long long)leaf->k0);
        if (s->done[row] != wanted)
            return failure("row %lld is in %d bundles", (long long)row, s->done[row]);
    }
    return NULL;
}

static const char *check_sequence(sequence *s)
{
    const char *why = NULL;
    for (int64_t x = 0; !why && x < ha_eras_of(&s->layout, s->causal); x++) {
        const ha_era era = ha_era_at(&s->layout, &s->recipe, s->causal, x);
        int64_t n = ha_era_bundles(&s->layout, &s->recipe, s->causal, &era), known = -1;
        for (int64_t y = 0; y < n && !why; y++) {
            const ha_bundle b = ha_bundle_at(&s->layout, &s->recipe, s->causal, &era, y);
            if (b.rows > 0)
                why = check_bundle(s, &era, &b, &known);
        }
    }
    return why ? why : check_rows(s);
}

static void check_lengths(const hyperattn_params *params, int causal)
{
    static const int64_t lengths[] = {0, 1, 64, 129, 300, 1000, 2048, 2049, 3500, 4200, 8500};
    for (int a = 0; a < COUNT(lengths); a++)
        for (int b = 0; b < COUNT(lengths); b++) {
            if (lengths[a] > 2048 && lengths[b] > 2048 && abs(a - b) > 1 && emulated())
                continue;
            sequence s = sequence_new(lengths[a], lengths[b], causal, params);
            ck_good_at(check_sequence(&s), "%lld rows, %lld keys, leaf %d, window %d, sinks %d, "
                       "%d selected, cell %d", (long long)lengths[a], (long long)lengths[b],
                       params->leaf_size, params->window, params->num_sinks, params->num_selected,
                       params->cell_size);
            sequence_free(&s);
        }
}

START_TEST(every_key_is_near_or_past_once)
{
    static const struct {
        int leaf, window, sinks, selected, cell;
    } cases[] = {
        {0, 0, 16, 0, 0},   {128, 1, 0, 1, 8},      {128, 128, 16, 8, 16},
        {256, 300, 40, 8, 32}, {384, 200, 3, 64, 64}, {640, 1000, 0, 1, 128},
        {2048, 0, 16, 8, 32}, {1920, 5000, 16, 8, 16}, {128, 1, 1000, 1, 8},
    };
    hyperattn_params params;
    hyperattn_params_init(&params);
    params.method = HYPERATTN_MULTIPOLE;
    params.leaf_size = cases[_i].leaf;
    params.num_sinks = cases[_i].sinks;
    params.num_selected = cases[_i].selected;
    params.cell_size = cases[_i].cell;
    check_lengths(&params, 0);
    params.window = cases[_i].window;
    check_lengths(&params, 1);
    params.strict_causal = 1;
    check_lengths(&params, 1);
}
END_TEST

/* ---- epochs ---------------------------------------------------------------------------------- */

/* What era x has of the cells before, and who tells what its queries are like. */
static const char *check_epoch(const sequence *s, int64_t x, const ha_era *era, int64_t kept)
{
    int64_t first = ha_epoch_of(&s->layout, s->causal, x);
    const ha_era rows = ha_epoch_at(&s->layout, &s->recipe, s->causal, x);
    if (first > x || first != ha_epoch_of(&s->layout, s->causal, first))
        return failure("era %lld is in the epoch of era %lld", (long long)x, (long long)first);
    if (era->fresh != kept || (first == x && kept) || era->fresh > era->old)
        return failure("era %lld, of %lld: %lld keys kept, %lld of the era before", (long long)x,
                       (long long)first, (long long)era->fresh, (long long)kept);
    if (!era->nq)
        return NULL;
    if (rows.nq <= 0 || rows.seen > era->seen)
        return failure("era %lld: %lld rows and %lld keys tell of it", (long long)x,
                       (long long)rows.nq, (long long)rows.seen);
    if (s->recipe.strict ? rows.q0 < 0 || rows.q0 + rows.nq > era->q0
                         : rows.q0 > era->q0 || rows.q0 + rows.nq < era->q0 + era->nq)
        return failure("era %lld of rows [%lld, + %lld): [%lld, + %lld) tell of it", (long long)x,
                       (long long)era->q0, (long long)era->nq, (long long)rows.q0,
                       (long long)rows.nq);
    return NULL;
}

/* A key is expanded a few times in all. */
static void check_epochs(int64_t nq, int64_t nk, int causal, const hyperattn_params *params)
{
    sequence s = {.params = *params, .layout = {.nq = nq, .nk = nk}, .causal = causal};
    s.recipe = ha_recipe_of(params, nq, nk, causal);
    ha_layout_build(&s.layout, params, causal);
    int64_t kept = 0, expanded = 0;
    for (int64_t x = 0; x < ha_eras_of(&s.layout, causal); x++) {
        const ha_era era = ha_era_at(&s.layout, &s.recipe, causal, x);
        ck_good_at(check_epoch(&s, x, &era, kept), "%lld rows, %lld keys", (long long)nq,
                   (long long)nk);
        kept = era.kept;
        expanded += era.nq ? era.end - era.fresh : 0;
    }
    ck_assert_int_eq(kept, 0);
    ck_assert_msg(expanded <= 8 * nk, "%lld keys are expanded %lld times in all", (long long)nk,
                  (long long)expanded);
}

START_TEST(epochs_keep_cells)
{
    static const int64_t lengths[] = {0, 3000, 8192, 40000, 131072, 1 << 20};
    hyperattn_params params;
    hyperattn_params_init(&params);
    params.method = HYPERATTN_MULTIPOLE;
    params.strict_causal = _i == 2;
    for (int a = 0; a < COUNT(lengths); a++)
        for (int b = 0; b < COUNT(lengths); b++)
            check_epochs(lengths[a], lengths[b], _i > 0, &params);
}
END_TEST

/* ---- what a budget buys ---------------------------------------------------------------------- */

START_TEST(sizes_fit_together_at_every_budget)
{
    static const int64_t lengths[] = {1, 1000, 8192, 32768, 131072, 1 << 20, INT64_C(1) << 40};
    for (int budget = HA_LEAST_BUDGET; budget <= HA_MOST_BUDGET; budget += 1 + budget / 7)
        for (int s = 0; s < COUNT(lengths); s++) {
            hyperattn_params params;
            hyperattn_params_init(&params);
            params.method = HYPERATTN_MULTIPOLE;
            params.budget = budget;
            const ha_recipe r = ha_recipe_of(&params, lengths[s], lengths[s], 1);
            ck_assert_msg(r.cell >= 8 && HA_SHORT_STRETCH % r.cell == 0 &&
                              r.far_cell % r.cell == 0 && r.far_cell >= r.cell,
                          "budget %d, %lld keys: cells of %lld and %lld", budget,
                          (long long)lengths[s], (long long)r.cell, (long long)r.far_cell);
            ck_assert(r.leaf % HA_SHORT_STRETCH == 0 && r.window % HA_SHORT_STRETCH == 0);
            ck_assert(r.selected > 0 && r.candidates > 0);
            params.private_depth = -1; /* then the selected keys are some of the candidates' */
            const ha_recipe blind = ha_recipe_of(&params, lengths[s], lengths[s], 1);
            ck_assert(blind.selected <= blind.candidates * blind.cell);
        }
}
END_TEST

int main(void)
{
    TCase *topic = topic_begin("multipole_geometry");
    tcase_add_loop_test(topic, every_key_is_near_or_past_once, 0, 9);
    tcase_add_loop_test(topic, epochs_keep_cells, 0, 3);
    tcase_add_test(topic, sizes_fit_together_at_every_budget);
    return topic_end();
}
