/* SPDX-License-Identifier: Apache-2.0
 *
 * The order of work, by brute force: items of several key heads are dealt in turn, and in backward
 * the blocks of rows and keys meet so that no two pairs of a step share a seat, every pair that
 * sees anything comes once, and each waits for the right one before it.
 */
#include <string.h>

#include "checkmain.h"
#include "cpu/deal.h"
#include "cpu/pairs.h"
#include "tensors.h"

/* ---- dealing items --------------------------------------------------------------------------- */

enum { MOST_HEADS = 300, MOST_ITEMS = 40 };

static void deal_counts(ha_deal *deal, const int64_t *count, int64_t nheads)
{
    ha_deal_open(deal, nheads);
    for (int64_t i = 0; i < nheads; i++)
        ha_deal_add(deal, i, count[i]);
    ha_deal_close(deal);
}

/* Every item of every key head comes once, and none before one of a lower number. */
static const char *check_deal(const ha_deal *deal, const int64_t *count, int64_t nheads)
{
    static char seen[MOST_HEADS][MOST_ITEMS];
    int64_t all = 0, last = 0, item;
    memset(seen, 0, sizeof seen);
    for (int64_t i = 0; i < nheads; i++)
        all += count[i];
    if (deal->n != all)
        return failure("%lld items of %lld", (long long)deal->n, (long long)all);
    for (int64_t i = 0; i < all; i++) {
        int64_t head = ha_deal_at(deal, i, &item);
        if (head < 0 || head >= nheads || item < 0 || item >= count[head])
            return failure("item %lld is %lld of head %lld", (long long)i, (long long)item,
                           (long long)head);
        if (seen[head][item]++)
            return failure("item %lld of head %lld came twice", (long long)item, (long long)head);
        if (item < last)
            return failure("item %lld came after %lld", (long long)item, (long long)last);
        last = item;
    }
    return NULL;
}

static void check_counts(const int64_t *count, int64_t nheads, const char *name)
{
    ha_deal deal;
    ha_carver size = {0};
    ha_deal_carve(&size, &deal, nheads);
    guarded mem = guarded_workspace(size.used);
    ha_carver c = {.base = (char *)mem.data};
    ha_deal_carve(&c, &deal, nheads);
    for (int repeat = 0; repeat < 2; repeat++) { /* a deal is used again by the next stage */
        deal_counts(&deal, count, nheads);
        ck_good_at(check_deal(&deal, count, nheads), "%s, %lld heads", name, (long long)nheads);
    }
    ck_good(guarded_check(&mem));
    guarded_free(&mem);
}

START_TEST(items_are_dealt_in_turn)
{
    rng r = rng_new(3);
    int64_t count[MOST_HEADS];
    for (int64_t nheads = 1; nheads <= MOST_HEADS; nheads += nheads < 12 ? 1 : 41)
        for (int round = 0; round < 12; round++) {
            for (int64_t i = 0; i < nheads; i++)
                count[i] = rng_below(&r, round < 6 ? 4 : MOST_ITEMS);
            check_counts(count, nheads, "random");
            for (int64_t i = 0; i < nheads; i++)
                count[i] = i == round % nheads ? MOST_ITEMS - 1 : round % 3;
            check_counts(count, nheads, "one long");
            for (int64_t i = 0; i < nheads; i++)
                count[i] = round;
            check_counts(count, nheads, "equal");
        }
}
END_TEST

/* Of key heads that have an item, the first comes first, so that equal ones stay in their order. */
START_TEST(equal_key_heads_take_turns_in_order)
{
    const int64_t count[] = {5, 5, 5, 5, 5, 5, 5};
    int64_t begin[8], counts[8], item;
    int32_t order[7];
    ha_deal deal = {.count = counts, .begin = begin, .order = order};
    deal_counts(&deal, count, 7);
    for (int64_t i = 0; i < 35; i++) {
        ck_assert_int_eq(ha_deal_at(&deal, i, &item), i % 7);
        ck_assert_int_eq(item, i / 7);
    }
}
END_TEST

/* ---- pairs of blocks ------------------------------------------------------------------------- */

enum { MOST_PLACES = 1024 };

/* What the steps so far have left. */
typedef struct met {
    int64_t row_step[MOST_PLACES], key_step[MOST_PLACES]; /* last step with a pair; 0: none */
    int *times;                                           /* [rows][keys]: pairs of the blocks */
} met;

static int is_visible(const ha_grid *g, int64_t x, int64_t y)
{
    int64_t first, end;
    ha_block_rows(g, x, &first, &end);
    for (int64_t i = first; i < end; i++)
        if (g->first_limit + g->causal * i > y * g->step)
            return 1;
    return 0;
}

static const char *check_pair(const ha_grid *g, met *m, int64_t s, int64_t x, int64_t y)
{
    int64_t row = ha_row_step_before(g, x, s), key = ha_key_step_before(g, y, s);
    if (x < 0 || x >= ha_row_seats(g) || y < 0 || y >= ha_key_seats(g))
        return failure("step %lld: no seats %lld, %lld", (long long)s, (long long)x, (long long)y);
    if (m->row_step[x] == s || m->key_step[y] == s)
        return failure("step %lld: seats %lld, %lld meet and are in another pair", (long long)s,
                       (long long)x, (long long)y);
    if (row != m->row_step[x])
        return failure("step %lld: row seat %lld waits for step %lld, not %lld", (long long)s,
                       (long long)x, (long long)row, (long long)m->row_step[x]);
    if (key != m->key_step[y])
        return failure("step %lld: key seat %lld waits for step %lld, not %lld", (long long)s,
                       (long long)y, (long long)key, (long long)m->key_step[y]);
    m->times[x % g->rows * g->keys + y % g->keys]++;
    m->row_step[x] = m->key_step[y] = s;
    return NULL;
}

static const char *check_step(const ha_grid *g, met *m, int64_t s, int64_t width)
{
    const char *why = NULL;
    int64_t x, y;
    for (int64_t i = 0; i < width && !why; i++)
        if (ha_pair_at(g, s, i, &x, &y))
            why = check_pair(g, m, s, x, y);
    return why;
}

static const char *check_grid(const ha_grid *g)
{
    met m = {.times = calloc((size_t)(g->rows * g->keys) + 1, sizeof *m.times)};
    const char *why = NULL;
    int64_t most = ha_grid_steps(g) + 3; /* a larger leaf of the sequence may have more */
    for (int64_t s = 1; s <= most && !why; s++)
        why = check_step(g, &m, s, most);
    for (int64_t x = 0; x < g->rows && !why; x++)
        for (int64_t y = 0; y < g->keys && !why; y++)
            if (m.times[x * g->keys + y] != is_visible(g, x, y))
                why = failure("row block %lld and key block %lld meet %d times", (long long)x,
                              (long long)y, m.times[x * g->keys + y]);
    free(m.times);
    if (!why)
        return NULL;
    return failure("%lld rows in %lld blocks of a head, %lld in all, %lld key blocks, %lld and "
                   "%lld copies, first limit %lld, causal %d: %s",
                   (long long)g->leaf_rows, (long long)g->head, (long long)g->rows,
                   (long long)g->keys, (long long)g->row_copies, (long long)g->key_copies,
                   (long long)g->first_limit, g->causal, why);
}

enum { STEP = 3 };

/* As ha_grid_of makes it: no key blocks behind what the last row sees. */
static ha_grid small_grid(int64_t group, int64_t leaf_rows, int64_t first_limit, int causal)
{
    ha_grid g = {.step = STEP, .leaf_rows = leaf_rows, .first_limit = first_limit};
    int64_t last = first_limit + causal * (leaf_rows - 1);
    g.causal = causal;
    g.head = (leaf_rows + STEP - 1) / STEP;
    g.rows = group * g.head;
    g.keys = last > 0 ? (last + STEP - 1) / STEP : 0;
    g.row_copies = g.key_copies = 1;
    return g;
}

/* Only the shorter side has copies, but it may have more than this leaf has use for. */
static void check_copies(ha_grid g)
{
    static const int64_t copies[] = {1, 2, 3, 4, 7};
    for (int c = 0; c < COUNT(copies); c++) {
        g.row_copies = copies[c];
        g.key_copies = 1;
        ck_good(check_grid(&g));
        g.row_copies = 1;
        g.key_copies = copies[c];
        ck_good(check_grid(&g));
    }
}

START_TEST(blocks_meet_once_and_in_order)
{
    static const int64_t groups[] = {1, 2, 3, 5};
    int64_t most = emulated() ? 11 : 17;
    for (int group = 0; group < COUNT(groups); group++)
        for (int64_t rows = 1; rows <= most; rows += rows < 8 ? 1 : 3)
            for (int causal = 0; causal < 2; causal++)
                for (int64_t limit = causal ? -2 * STEP - 1 : 0; limit <= 7 * STEP + 1; limit++)
                    check_copies(small_grid(groups[group], rows, limit, causal));
}
END_TEST

/* ---- grids of real sizes --------------------------------------------------------------------- */

typedef struct sizes {
    int64_t group, nq, nk;
} sizes;

static void check_sizes(const sizes *z, const ha_arith *arith, int causal)
{
    hyperattn_problem p = problem_of(z->group, z->nq, 16);
    p.seqlen_k = z->nk;
    p.causal = causal;
    hyperattn_params params;
    hyperattn_params_init(&params);
    params.method = HYPERATTN_EXACT;
    const ha_cpu_plan plan = {.problem = &p, .params = &params, .arith = arith, .group = z->group};
    int64_t wave[8];
    ha_rect rects[1];
    ha_leaf leaf;
    ha_layout l = {.nq = z->nq, .nk = z->nk};
    ha_layout_build(&l, &params, causal);
    ck_assert_int_eq(l.nleaves, 1);
    l.wave = wave;
    l.rects = rects;
    l.leaves = &leaf;
    ha_layout_build(&l, &params, causal);
    const ha_grid g = ha_grid_of(&plan, &l, &leaf);
    ck_assert_int_eq(g.step % arith->gr, 0);
    ck_assert_int_le(ha_grid_steps(&g), MOST_PLACES);
    ck_assert_msg(g.row_copies == 1 || g.key_copies == 1, "both sides have copies");
    ck_good_at(check_grid(&g), "%lld heads, %lld rows, %lld keys", (long long)z->group,
               (long long)z->nq, (long long)z->nk);
}

START_TEST(grids_of_real_sizes)
{
    static const sizes all[] = {
        {1, 1, 1},     {1, 300, 300},   {1, 5000, 5000}, {64, 300, 300},  {64, 2000, 2000},
        {8, 16, 9000}, {64, 16, 30000}, {1, 16, 100000}, {1, 30000, 100}, {4, 700, 20},
    };
    for (int s = 0; s < COUNT(all); s++)
        for (int causal = 0; causal < 2; causal++)
            check_sizes(&all[s], &ha_kernels_at(HA_LEVEL_REF)->f32, causal);
}
END_TEST

int main(void)
{
    if (emulated())
        puts("reduced: grids of up to 4 row blocks a head");
    TCase *topic = topic_begin("pairs");
    tcase_add_test(topic, items_are_dealt_in_turn);
    tcase_add_test(topic, equal_key_heads_take_turns_in_order);
    tcase_add_test(topic, blocks_meet_once_and_in_order);
    tcase_add_test(topic, grids_of_real_sizes);
    return topic_end();
}
