/* SPDX-License-Identifier: Apache-2.0
 *
 * The flat form of Algorithm 4 from the inside: for any lengths, sinks, window and mask, leaves and
 * rectangles cover every visible pair of row and key exactly once, and the counts that the
 * workspace is made from hold them all.
 */
#include <string.h>

#include "algo/causal.h"
#include "checkmain.h"

/* ---- a layout and what covers its pairs ---------------------------------------------------- */

/* How a pair of row and key is covered. */
enum { APPROXIMATELY = 1, EXACTLY = 16 };

typedef struct laid {
    ha_layout l;
    hyperattn_params params;
    int causal;
    unsigned char *cover; /* [nq][nk]: sum of the above over all that cover the pair */
} laid;

static hyperattn_params small_params(int leaf, int sinks, int window)
{
    hyperattn_params params;
    hyperattn_params_init(&params);
    params.method = HYPERATTN_HYPER;
    params.min_seq_len = leaf;
    params.block_size = 16;
    params.num_sinks = sinks;
    params.window = window;
    return params;
}

/* Counts, then fills arrays of exactly the counted sizes, as the backend does. */
static void lay(laid *x, int64_t nq, int64_t nk)
{
    x->l = (ha_layout){.nq = nq, .nk = nk};
    ha_layout_build(&x->l, &x->params, x->causal);
    ha_layout counted = x->l;
    x->l.wave = calloc((size_t)x->l.nwaves + 1, sizeof *x->l.wave);
    x->l.rects = calloc((size_t)x->l.nrects + 1, sizeof *x->l.rects);
    x->l.leaves = calloc((size_t)x->l.nleaves + 1, sizeof *x->l.leaves);
    x->cover = calloc((size_t)(nq * nk) + 1, 1);
    ha_layout_build(&x->l, &x->params, x->causal);
    ck_assert_int_eq(x->l.nrects, counted.nrects);
    ck_assert_int_eq(x->l.nleaves, counted.nleaves);
    ck_assert_int_eq(x->l.nwaves, counted.nwaves);
}

static void lay_free(laid *x)
{
    free(x->l.wave);
    free(x->l.rects);
    free(x->l.leaves);
    free(x->cover);
}

/* Keys that row i sees: the first ones. */
static int64_t keys_seen(const laid *x, int64_t i)
{
    int64_t seen = x->causal ? i + x->l.nk - x->l.nq + 1 : x->l.nk;
    return seen < 0 ? 0 : seen;
}

static const char *add_cover(laid *x, int64_t row, int64_t first, int64_t end, int how)
{
    if (first > end || first < 0 || end > x->l.nk)
        return failure("row %lld has keys [%lld, %lld)", (long long)row, (long long)first,
                       (long long)end);
    for (int64_t j = first; j < end; j++)
        x->cover[row * x->l.nk + j] += (unsigned char)how;
    return NULL;
}

static const char *cover_rect(laid *x, const ha_rect *r)
{
    const char *why = NULL;
    if (r->q0 < 0 || r->nq < 1 || r->q0 + r->nq > x->l.nq)
        return failure("a rectangle has rows [%lld, %lld)", (long long)r->q0,
                       (long long)(r->q0 + r->nq));
    for (int64_t i = r->q0; i < r->q0 + r->nq && !why; i++) {
        why = add_cover(x, i, r->k0, r->k0 + r->nk, APPROXIMATELY);
        for (int part = 0; part < 2 && !why; part++)
            why = add_cover(x, i, r->pinned[part][0], r->pinned[part][1], EXACTLY);
    }
    return why;
}

static const char *cover_leaf(laid *x, const ha_leaf *leaf)
{
    const char *why = NULL;
    if (leaf->q0 < 0 || leaf->nq < 1 || leaf->q0 + leaf->nq > x->l.nq)
        return failure("a leaf has rows [%lld, %lld)", (long long)leaf->q0,
                       (long long)(leaf->q0 + leaf->nq));
    for (int64_t i = leaf->q0; i < leaf->q0 + leaf->nq && !why; i++)
        if (leaf->k0 < keys_seen(x, i))
            why = add_cover(x, i, leaf->k0, keys_seen(x, i), EXACTLY);
    return why;
}

/* ---- what must hold ------------------------------------------------------------------------ */

/* Every pair that a row sees is covered once, sinks and the row's window exactly; no other is. */
static const char *check_cover(laid *x)
{
    const char *why = NULL;
    for (int64_t r = 0; r < x->l.nrects && !why; r++)
        why = cover_rect(x, &x->l.rects[r]);
    for (int64_t f = 0; f < x->l.nleaves && !why; f++)
        why = cover_leaf(x, &x->l.leaves[f]);
    for (int64_t i = 0; i < x->l.nq && !why; i++) {
        int64_t seen = keys_seen(x, i);
        for (int64_t j = 0; j < x->l.nk && !why; j++) {
            int is_exact = j < x->params.num_sinks || (x->causal && j >= seen - x->params.window);
            int cover = x->cover[i * x->l.nk + j];
            int fits = j >= seen ? cover == 0
                                 : cover == EXACTLY || (cover == APPROXIMATELY && !is_exact);
            if (!fits)
                why = failure("row %lld, key %lld: %s, covered %d times exactly, %d approximately",
                              (long long)i, (long long)j,
                              j >= seen ? "unseen" : is_exact ? "exact" : "seen",
                              cover / EXACTLY, cover % EXACTLY);
        }
    }
    return why;
}

static int overlap(int64_t a, int64_t na, int64_t b, int64_t nb)
{
    return na && nb && a < b + nb && b < a + na;
}

/* Rectangles of a wave run side by side on the arrays of their key head. Those of a mask read keys
 * in their own order, so that they may share some; sorted ones may not. */
static const char *check_wave(const laid *x, int64_t first, int64_t end)
{
    int64_t bounds = 0, tasks = 0;
    for (int64_t r = first; r < end; r++) {
        const ha_rect *a = &x->l.rects[r];
        if (a->bounds != bounds)
            return failure("rectangle %lld has its bounds at %lld, not %lld", (long long)r,
                           (long long)a->bounds, (long long)bounds);
        bounds += a->nruns + 1;
        tasks += a->nruns + a->nq / HA_TASK_ROWS;
        for (int64_t s = first; s < r; s++) {
            const ha_rect *b = &x->l.rects[s];
            if (overlap(a->q0, a->nq, b->q0, b->nq))
                return failure("rectangles %lld and %lld share rows", (long long)s, (long long)r);
            if (!x->params.block_mask && overlap(a->k0, a->nk, b->k0, b->nk))
                return failure("rectangles %lld and %lld share keys", (long long)s, (long long)r);
        }
    }
    if (end - first > x->l.max_rects || bounds > x->l.max_bounds || tasks > x->l.max_tasks)
        return failure("%lld rectangles, %lld bounds, %lld tasks; made for %lld, %lld, %lld",
                       (long long)(end - first), (long long)bounds, (long long)tasks,
                       (long long)x->l.max_rects, (long long)x->l.max_bounds,
                       (long long)x->l.max_tasks);
    return NULL;
}

static const char *check_waves(const laid *x)
{
    const char *why = NULL;
    if (x->l.wave[0] != 0 || x->l.wave[x->l.nwaves] != x->l.nrects)
        return failure("the waves do not hold all rectangles");
    for (int w = 0; w < x->l.nwaves && !why; w++)
        why = check_wave(x, x->l.wave[w], x->l.wave[w + 1]);
    return why;
}

/* A rectangle is fresh, or not, for all its rows alike. */
static const char *check_fresh(const laid *x)
{
    char *seen = calloc((size_t)x->l.nq + 1, 1);
    const char *why = NULL;
    for (int64_t r = 0; r < x->l.nrects && !why; r++) {
        const ha_rect *rect = &x->l.rects[r];
        for (int64_t i = rect->q0; i < rect->q0 + rect->nq && !why; i++) {
            if (seen[i] != !rect->fresh)
                why = failure("rectangle %lld: fresh is %d for row %lld", (long long)r, rect->fresh,
                              (long long)i);
            seen[i] = 1;
        }
    }
    for (int64_t f = 0; f < x->l.nleaves && !why; f++)
        for (int64_t i = x->l.leaves[f].q0; i < x->l.leaves[f].q0 + x->l.leaves[f].nq; i++)
            if (seen[i] != !x->l.leaves[f].fresh)
                why = failure("leaf %lld: fresh is %d for row %lld", (long long)f,
                              x->l.leaves[f].fresh, (long long)i);
    free(seen);
    return why;
}

/* Each row is finished in one leaf, where there are leaves; packed panels fit the leaves' keys. */
static const char *check_leaves(const laid *x)
{
    int64_t rows = 0;
    for (int64_t f = 0; f < x->l.nleaves; f++) {
        const ha_leaf *leaf = &x->l.leaves[f];
        rows += leaf->nq;
        if (leaf->nq > x->l.max_leaf_rows)
            return failure("leaf %lld has %lld rows; made for %lld", (long long)f,
                           (long long)leaf->nq, (long long)x->l.max_leaf_rows);
        if (f && leaf->q0 < x->l.leaves[f - 1].q0 + x->l.leaves[f - 1].nq)
            return failure("leaves %lld and %lld share rows", (long long)f - 1, (long long)f);
        if (keys_seen(x, leaf->q0 + leaf->nq - 1) > leaf->k0 &&
            (leaf->k0 < x->l.leaf_key0 || (leaf->k0 - x->l.leaf_key0) % HA_SPLIT))
            return failure("leaf %lld starts at key %lld, with the first causal one at %lld",
                           (long long)f, (long long)leaf->k0, (long long)x->l.leaf_key0);
    }
    return rows == (x->causal ? x->l.nq : 0) ? NULL : failure("leaves hold %lld rows",
                                                              (long long)rows);
}

static int64_t blocks_of(const laid *x, const ha_rect *r)
{
    int64_t n = x->params.heavy == HYPERATTN_HEAVY_NONE ? r->nq : r->nk;
    int64_t blocks = (n + x->params.block_size - 1) / x->params.block_size;
    return x->params.block_mask || blocks < 1 ? 1 : blocks;
}

static const char *check_blocks(const laid *x)
{
    for (int64_t r = 0; r < x->l.nrects; r++)
        if (x->l.rects[r].nruns != blocks_of(x, &x->l.rects[r]))
            return failure("rectangle %lld of %lld rows and %lld keys has %lld blocks",
                           (long long)r, (long long)x->l.rects[r].nq, (long long)x->l.rects[r].nk,
                           (long long)x->l.rects[r].nruns);
    return NULL;
}

static const char *check_layout(hyperattn_params params, int causal, int64_t nq, int64_t nk)
{
    laid x = {.params = params, .causal = causal};
    lay(&x, nq, nk);
    const char *why = check_cover(&x);
    if (!why)
        why = check_waves(&x);
    if (!why)
        why = check_fresh(&x);
    if (!why)
        why = check_leaves(&x);
    if (!why)
        why = check_blocks(&x);
    lay_free(&x);
    return why ? failure("%lld x %lld, leaf %d, sinks %d, window %d: %s", (long long)nq,
                         (long long)nk, params.min_seq_len, params.num_sinks, params.window, why)
               : NULL;
}

/* ---- the shapes ---------------------------------------------------------------------------- */

static const int sinks[] = {0, 5, 70, 1000}, windows[] = {0, 1, 2, 40, 64, 65, 150, 1000};

START_TEST(any_length_is_covered_once)
{
    for (int64_t n = 1; n <= 300; n++)
        for (int s = 0; s < COUNT(sinks); s++)
            for (int w = (int)(n % 2); w < COUNT(windows); w += 2)
                ck_good(check_layout(small_params(1 + (int)(n % 100), sinks[s], windows[w]), 1, n,
                                     n));
}
END_TEST

START_TEST(unequal_lengths_are_covered_once)
{
    static const int64_t lengths[] = {0, 1, 63, 64, 65, 130, 201, 333};
    for (int q = 0; q < COUNT(lengths); q++)
        for (int k = 0; k < COUNT(lengths); k++)
            for (int s = 0; s < COUNT(sinks); s++)
                for (int w = 0; w < COUNT(windows); w++)
                    ck_good(check_layout(small_params(64, sinks[s], windows[w]), 1, lengths[q],
                                         lengths[k]));
}
END_TEST

START_TEST(long_odd_lengths_are_covered_once)
{
    static const int64_t lengths[] = {1023, 1500, 2049, 2777};
    for (int n = 0; n < COUNT(lengths); n++) {
        ck_good(check_layout(small_params(64, 3, 0), 1, lengths[n], lengths[n]));
        ck_good(check_layout(small_params(100, 0, 130), 1, lengths[n], lengths[n]));
        ck_good(check_layout(small_params(512, 16, 33), 1, lengths[n] / 3, lengths[n]));
        ck_good(check_layout(small_params(200, 100, 1), 1, lengths[n], lengths[n] / 2));
    }
}
END_TEST

START_TEST(without_a_mask_there_is_one_rectangle)
{
    static const int64_t lengths[] = {0, 1, 15, 16, 17, 300};
    for (int q = 0; q < COUNT(lengths); q++)
        for (int k = 0; k < COUNT(lengths); k++)
            for (int s = 0; s < COUNT(sinks); s++)
                for (int heavy = HYPERATTN_HEAVY_SORTLSH; heavy <= HYPERATTN_HEAVY_NONE; heavy++) {
                    hyperattn_params params = small_params(64, sinks[s], 0);
                    params.heavy = (hyperattn_heavy)heavy;
                    ck_good(check_layout(params, 0, lengths[q], lengths[k]));
                }
}
END_TEST

START_TEST(heavy_none_cuts_the_rows)
{
    for (int64_t n = 1; n <= 300; n += 13) {
        hyperattn_params params = small_params(64, 5, 20);
        params.heavy = HYPERATTN_HEAVY_NONE;
        ck_good(check_layout(params, 1, n, n));
        ck_good(check_layout(params, 1, n, n / 2 + 1));
        ck_good(check_layout(params, 1, n / 2 + 1, n));
    }
}
END_TEST

/* Each rectangle of a block mask belongs to the query block that it names. */
static const char *check_mask_rows(hyperattn_params params, int causal, int64_t nq, int64_t nk)
{
    laid x = {.params = params, .causal = causal};
    lay(&x, nq, nk);
    int64_t step = params.block_mask->query_block;
    const char *why = NULL;
    for (int64_t r = 0; r < x.l.nrects && !why; r++) {
        const ha_rect *rect = &x.l.rects[r];
        if (rect->mask_row != rect->q0 / step || rect->mask_row != (rect->q0 + rect->nq - 1) / step)
            why = failure("rows [%lld, %lld) have mask row %lld", (long long)rect->q0,
                          (long long)(rect->q0 + rect->nq), (long long)rect->mask_row);
    }
    lay_free(&x);
    return why;
}

START_TEST(block_masks_are_covered_once)
{
    static const int64_t lengths[] = {1, 63, 64, 65, 130, 333}, blocks[] = {1, 7, 64, 100, 1000};
    const int64_t nothing = 0;
    for (int q = 0; q < COUNT(lengths); q++)
        for (int k = 0; k < COUNT(lengths); k++)
            for (int b = 0; b < COUNT(blocks); b++)
                for (int s = 0; s < COUNT(sinks); s++)
                    for (int w = 0; w < COUNT(windows); w++) {
                        hyperattn_block_mask mask;
                        hyperattn_block_mask_init(&mask);
                        mask.query_block = blocks[b];
                        mask.key_block = 16;
                        mask.row_start = mask.key_blocks = &nothing;
                        hyperattn_params params = small_params(64, sinks[s], windows[w]);
                        params.block_mask = &mask;
                        int causal = windows[w] || s % 2;
                        const char *why = check_layout(params, causal, lengths[q], lengths[k]);
                        if (!why)
                            why = check_mask_rows(params, causal, lengths[q], lengths[k]);
                        ck_good_at(why, "query blocks of %lld", (long long)blocks[b]);
                    }
}
END_TEST

START_TEST(exact_attention_is_one_leaf)
{
    for (int causal = 0; causal < 2; causal++)
        for (int64_t nk = 1; nk < 400; nk += 150) {
            laid x = {.params = small_params(64, 5, causal), .causal = causal};
            x.params.method = HYPERATTN_EXACT;
            lay(&x, 200, nk);
            ck_assert_int_eq(x.l.nrects, 0);
            ck_assert_int_eq(x.l.nleaves, 1);
            ck_assert_int_eq(x.l.leaf_key0, 0);
            ck_good(check_cover(&x));
            ck_good(check_fresh(&x));
            lay_free(&x);
        }
}
END_TEST

/* The two halves of Algorithm 4 are near equal, so the recursion is as deep as log2 says. */
START_TEST(leaves_are_about_as_long_as_asked_for)
{
    static const int64_t lengths[] = {5000, 65536, 1000003};
    static const int leaves[] = {64, 1000, 4096};
    for (int n = 0; n < COUNT(lengths); n++)
        for (int f = 0; f < COUNT(leaves); f++) {
            ha_layout l = {.nq = lengths[n], .nk = lengths[n]};
            hyperattn_params params = small_params(leaves[f], 0, 0);
            ha_layout_build(&l, &params, 1);
            ck_assert_int_le(l.max_leaf_rows, leaves[f]);
            int depth = 0;
            while (lengths[n] >> depth > leaves[f])
                depth++;
            ck_assert_msg(l.nwaves >= depth && l.nwaves <= depth + 1,
                          "%lld rows, leaf %d: %d waves", (long long)lengths[n], leaves[f],
                          l.nwaves);
        }
}
END_TEST

int main(void)
{
    TCase *topic = topic_begin("tasks");
    tcase_add_test(topic, any_length_is_covered_once);
    tcase_add_test(topic, unequal_lengths_are_covered_once);
    tcase_add_test(topic, long_odd_lengths_are_covered_once);
    tcase_add_test(topic, without_a_mask_there_is_one_rectangle);
    tcase_add_test(topic, heavy_none_cuts_the_rows);
    tcase_add_test(topic, block_masks_are_covered_once);
    tcase_add_test(topic, exact_attention_is_one_leaf);
    tcase_add_test(topic, leaves_are_about_as_long_as_asked_for);
    return topic_end();
}
