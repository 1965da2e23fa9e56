/* SPDX-License-Identifier: Apache-2.0
 *
 * Where HyperAttention is exact: with every column sampled or one block over all keys it equals the
 * float64 oracle; sinks, window and the predefined mask are attended exactly by the rows that they
 * belong to; and its weights always add up to one. Each test runs once per level.
 */
#include <math.h>
#include <string.h>

#include "checkmain.h"
#include "oracle.h"

/* Blocks, samples and leaves so small that a few hundred rows take every path. */
static hyperattn_params small_params(void)
{
    hyperattn_params params;
    hyperattn_params_init(&params);
    params.method = HYPERATTN_HYPER;
    params.block_size = 16;
    params.sample_size = 16;
    params.min_seq_len = 24;
    params.num_sinks = 0;
    params.seed = 9;
    return params;
}

/* ---- all columns --------------------------------------------------------------------------- */

typedef struct shape {
    const char *name;
    int64_t nq, nk, heads, heads_kv, d, dv;
    int causal, strict, sinks, window, block;
    hyperattn_heavy heavy;
    hyperattn_dtype dtype;
} shape;

static const shape shapes[] = {
    {"even", 256, 256, 1, 1, 32, 32, .causal = 0},
    {"odd", 257, 257, 1, 1, 32, 32, .causal = 0},
    {"one key more than a block", 17, 17, 1, 1, 8, 8, .causal = 0},
    {"single", 1, 1, 1, 1, 8, 8, .causal = 0},
    {"many queries", 300, 40, 1, 1, 16, 16, .causal = 0},
    {"many keys", 40, 300, 1, 1, 16, 16, .causal = 0},
    {"fewer queries than blocks", 3, 300, 1, 1, 16, 16, .causal = 0},
    {"groups", 100, 120, 6, 2, 16, 16, .causal = 0},
    {"dv smaller", 130, 130, 2, 2, 40, 17, .causal = 0},
    {"dv larger", 130, 130, 2, 2, 17, 80, .causal = 0},
    {"sinks", 200, 200, 1, 1, 16, 16, .sinks = 5},
    {"all keys are sinks", 50, 50, 1, 1, 16, 16, .sinks = 60},
    {"all but one are sinks", 50, 50, 1, 1, 16, 16, .sinks = 49},
    {"no block", 211, 211, 1, 1, 16, 16, .heavy = HYPERATTN_HEAVY_NONE},
    {"no block, sinks", 211, 211, 1, 1, 16, 16, .heavy = HYPERATTN_HEAVY_NONE, .sinks = 33},
    {"blocks of 1", 65, 65, 1, 1, 16, 16, .block = 1},
    {"bf16", 150, 150, 2, 1, 32, 32, .dtype = HYPERATTN_BF16, .sinks = 3},
    {"f16", 150, 150, 2, 1, 32, 32, .dtype = HYPERATTN_F16, .sinks = 3},
    {"more columns than are packed at once", 30, 1300, 1, 1, 8, 8, .causal = 0},
    {"causal, the same", 1300, 1300, 1, 1, 8, 8, .causal = 1, .sinks = 600},
    {"causal", 256, 256, 1, 1, 32, 32, .causal = 1},
    {"causal odd", 509, 509, 1, 1, 32, 32, .causal = 1},
    {"causal leaf + 1", 25, 25, 1, 1, 32, 32, .causal = 1},
    {"causal single", 1, 1, 1, 1, 32, 32, .causal = 1},
    {"causal groups", 131, 131, 6, 3, 16, 16, .causal = 1},
    {"causal dv", 131, 131, 2, 2, 40, 19, .causal = 1},
    {"causal leading keys", 77, 203, 2, 2, 16, 16, .causal = 1},
    {"causal one query", 1, 203, 2, 2, 16, 16, .causal = 1},
    {"causal rows without keys", 203, 77, 2, 2, 16, 16, .causal = 1},
    {"causal sinks", 220, 220, 1, 1, 16, 16, .causal = 1, .sinks = 7},
    {"causal many sinks", 220, 220, 1, 1, 16, 16, .causal = 1, .sinks = 150},
    {"causal window", 220, 220, 1, 1, 16, 16, .causal = 1, .window = 11},
    {"causal wide window", 220, 220, 1, 1, 16, 16, .causal = 1, .window = 90},
    {"causal window of all", 220, 220, 1, 1, 16, 16, .causal = 1, .window = 500},
    {"causal sinks meet window", 150, 150, 1, 1, 16, 16, .causal = 1, .sinks = 60, .window = 60},
    {"causal sinks, window, leading", 90, 220, 1, 1, 16, 16, .causal = 1, .sinks = 5, .window = 40},
    {"causal sinks, window, no keys", 220, 90, 1, 1, 16, 16, .causal = 1, .sinks = 5, .window = 40},
    {"causal no block", 220, 220, 1, 1, 16, 16, .causal = 1, .heavy = HYPERATTN_HEAVY_NONE},
    {"strict", 256, 256, 1, 1, 16, 16, .causal = 1, .strict = 1},
    {"strict odd", 301, 301, 2, 1, 16, 24, .causal = 1, .strict = 1, .sinks = 3, .window = 9},
    {"strict leading keys", 77, 203, 1, 1, 16, 16, .causal = 1, .strict = 1},
    {"strict bf16", 140, 140, 1, 1, 16, 16, .causal = 1, .strict = 1, .dtype = HYPERATTN_BF16},
};

static hyperattn_problem shape_problem(const shape *s)
{
    hyperattn_problem p = problem_of(s->heads, s->nq, s->d);
    p.nheads_kv = s->heads_kv;
    p.seqlen_k = s->nk;
    p.head_dim_v = s->dv;
    p.causal = s->causal;
    p.dtype = s->dtype;
    return p;
}

static hyperattn_params shape_params(const shape *s)
{
    hyperattn_params params = small_params();
    params.heavy = s->heavy;
    params.strict_causal = s->strict;
    params.num_sinks = s->sinks;
    params.window = s->window;
    if (s->block)
        params.block_size = s->block;
    return params;
}

static const char *equals_exact(const hyperattn_problem *p, const hyperattn_params *params,
                                fill kind, const char *level)
{
    tensors t = tensors_new(p, AT_END);
    tensors_fill(&t, kind, 21);
    const char *why = tensors_run(&t, params, level, 1);
    if (!why) {
        oracle o = oracle_exact(&t);
        why = oracle_compare(&o, &t, 2);
        oracle_free(&o);
    }
    tensors_free(&t);
    return why;
}

/* Own block, sinks, window and samples share the keys out among them: nothing is left out, nothing
 * counts twice, and the weight of a sample is 1. */
START_TEST(all_columns_sampled_is_exact)
{
    for (int s = 0; s < COUNT(shapes); s++)
        for (int times = 1; times <= 4; times += 3) {
            hyperattn_problem p = shape_problem(&shapes[s]);
            hyperattn_params params = shape_params(&shapes[s]);
            params.sample_size = (int)(times * shapes[s].nk);
            ck_good_at(equals_exact(&p, &params, FILL_CLUSTERED, levels[_i]), "%s: %s",
                       levels[_i], shapes[s].name);
        }
}
END_TEST

/* A block over all keys needs no samples; in causal mode that holds for each rectangle. */
START_TEST(one_block_is_exact)
{
    for (int s = 0; s < COUNT(shapes); s++) {
        if (shapes[s].heavy == HYPERATTN_HEAVY_NONE)
            continue;
        hyperattn_problem p = shape_problem(&shapes[s]);
        hyperattn_params params = shape_params(&shapes[s]);
        params.block_size = (int)shapes[s].nk;
        params.sample_size = 0;
        ck_good_at(equals_exact(&p, &params, FILL_CLUSTERED, levels[_i]), "%s: %s", levels[_i],
                   shapes[s].name);
    }
}
END_TEST

START_TEST(a_short_causal_sequence_is_exact)
{
    static const int64_t lengths[] = {1, 2, 99, 100};
    for (int s = 0; s < COUNT(lengths); s++) {
        hyperattn_problem p = problem_of(2, lengths[s], 16);
        p.causal = 1;
        hyperattn_params params = small_params();
        params.min_seq_len = 100;
        params.sample_size = 0;
        ck_good_at(equals_exact(&p, &params, FILL_GAUSS, levels[_i]), "length %lld",
                   (long long)lengths[s]);
    }
}
END_TEST

START_TEST(ragged_batches_are_exact_with_all_columns)
{
    static const int64_t cu_q[] = {0, 90, 90, 91, 231}, cu_k[] = {0, 71, 80, 80, 220};
    for (int causal = 0; causal < 2; causal++) {
        hyperattn_problem p = problem_of(4, 140, 16);
        p.batch = 4;
        p.nheads_kv = 2;
        p.causal = causal;
        p.cu_seqlens_q = cu_q;
        p.cu_seqlens_k = cu_k;
        hyperattn_params params = small_params();
        params.sample_size = 140;
        params.num_sinks = 3;
        ck_good_at(equals_exact(&p, &params, FILL_GAUSS, levels[_i]), "causal %d", causal);
    }
}
END_TEST

START_TEST(heads_inside_rows_are_exact_with_all_columns)
{
    for (int causal = 0; causal < 2; causal++) {
        hyperattn_problem p = problem_of(3, 110, 16);
        const int64_t stride[3] = {110 * 48, 16, 48};
        p.batch = 2;
        p.causal = causal;
        memcpy(p.q_stride, stride, sizeof stride);
        memcpy(p.k_stride, stride, sizeof stride);
        memcpy(p.v_stride, stride, sizeof stride);
        memcpy(p.out_stride, stride, sizeof stride);
        hyperattn_params params = small_params();
        params.sample_size = 110;
        ck_good_at(equals_exact(&p, &params, FILL_GAUSS, levels[_i]), "causal %d", causal);
    }
}
END_TEST

/* ---- weights ------------------------------------------------------------------------------- */

/* out is a weighted mean whatever was sampled: values of 1 give 1. */
START_TEST(values_of_one_give_one)
{
    static const int sample_sizes[] = {0, 1, 16, 100};
    for (int s = 0; s < COUNT(shapes); s++)
        for (int m = 0; m < COUNT(sample_sizes); m++)
            for (int sampling = HYPERATTN_SAMPLING_UNIFORM; sampling <= HYPERATTN_SAMPLING_VNORM;
                 sampling++) {
                if (shapes[s].heavy == HYPERATTN_HEAVY_NONE && sample_sizes[m] == 0)
                    continue;
                hyperattn_problem p = shape_problem(&shapes[s]);
                hyperattn_params params = shape_params(&shapes[s]);
                params.sampling = (hyperattn_sampling)sampling;
                params.sample_size = sample_sizes[m];
                tensors t = tensors_new(&p, AT_END);
                tensors_fill(&t, FILL_GAUSS, 5);
                for (int64_t h = 0; h < p.nheads_kv; h++)
                    for (int64_t j = 0; j < p.seqlen_k; j++)
                        tensors_set_row(&t, T_V, 0, h, j, 1);
                ck_good_at(tensors_run(&t, &params, levels[_i], 1), "%s", shapes[s].name);
                int64_t blind = p.causal && p.seqlen_q > p.seqlen_k ? p.seqlen_q - p.seqlen_k : 0;
                for (int64_t h = 0; h < p.nheads; h++)
                    for (int64_t i = 0; i < p.seqlen_q; i++) {
                        double out = tensors_get(&t, T_OUT, 0, h, i, p.head_dim_v - 1);
                        ck_assert_msg(fabs(out - (i >= blind)) <= dtype_eps(p.dtype) + 1e-5,
                                      "%s, %d samples of kind %d: row %lld gives %.9g",
                                      shapes[s].name, sample_sizes[m], sampling, (long long)i, out);
                    }
                tensors_free(&t);
            }
}
END_TEST

/* ---- columns attended exactly -------------------------------------------------------------- */

enum { NEEDLE_DIM = 64 };

/* Puts size * a random unit vector, the same in each, into row i of q and row j of k: a score of
 * size^2 with softmax_scale 1, and about size^2 / 8 at most between others. */
static void put_needle(tensors *t, int64_t h, int64_t i, int64_t j, double size, uint64_t seed)
{
    double x[NEEDLE_DIM], norm = 0;
    rng r = rng_new(seed);
    for (int c = 0; c < NEEDLE_DIM; c++) {
        x[c] = rng_gauss(&r);
        norm += x[c] * x[c];
    }
    for (int c = 0; c < NEEDLE_DIM; c++) {
        double value = size * x[c] / sqrt(norm);
        tensors_put(t, T_Q, 0, h, i, c, value);
        if (j >= 0)
            tensors_put(t, T_K, 0, h, j, c, value);
    }
}

static hyperattn_problem needle_problem(int64_t nheads, int64_t n)
{
    hyperattn_problem p = problem_of(nheads, n, NEEDLE_DIM);
    p.softmax_scale = 1;
    return p;
}

/* Row i must have found key j: its out is the value there. */
static void check_found(const tensors *t, int64_t h, int64_t i, int64_t j, const char *what)
{
    for (int64_t c = 0; c < t->full.head_dim_v; c++) {
        double out = tensors_get(t, T_OUT, 0, h, i, c), want = tensors_get(t, T_V, 0, h, j, c);
        ck_assert_msg(fabs(out - want) < 1e-3, "%s: row %lld of head %lld missed key %lld", what,
                      (long long)i, (long long)h, (long long)j);
    }
}

/* The weakest setting otherwise: no block, one sample. */
static hyperattn_params blind_params(void)
{
    hyperattn_params params = small_params();
    params.heavy = HYPERATTN_HEAVY_NONE;
    params.sample_size = 1;
    return params;
}

START_TEST(every_row_attends_the_sinks)
{
    enum { N = 300, SINKS = 6 };
    for (int causal = 0; causal < 2; causal++) {
        hyperattn_problem p = needle_problem(1, N);
        p.causal = causal;
        tensors t = tensors_new(&p, AT_END);
        tensors_fill(&t, FILL_GAUSS, 1);
        for (int64_t i = N - 1; i >= 0; i--) /* row i looks for sink i % SINKS */
            put_needle(&t, 0, i, i % SINKS, 10, (uint64_t)(i % SINKS));
        for (int64_t j = SINKS; j < N; j++)
            tensors_set_row(&t, T_K, 0, 0, j, 0);
        hyperattn_params params = blind_params();
        params.num_sinks = SINKS;
        ck_good(tensors_run(&t, &params, levels[_i], 1));
        for (int64_t i = causal ? SINKS : 0; i < N; i++)
            check_found(&t, 0, i, i % SINKS, "sinks");
        tensors_free(&t);
    }
}
END_TEST

/* Each row looks for the key that lies `back` before it, the last of its window. */
static void check_window(int64_t nq, int64_t nk, int window, int sinks, const char *level)
{
    int64_t back = window - 1;
    hyperattn_problem p = needle_problem(1, nq);
    p.seqlen_k = nk;
    p.causal = 1;
    tensors t = tensors_new(&p, AT_END);
    tensors_fill(&t, FILL_GAUSS, 1);
    for (int64_t i = 0; i < nq; i++) {
        int64_t j = i + nk - nq - back;
        put_needle(&t, 0, i, j, 8, (uint64_t)i + 100);
    }
    hyperattn_params params = blind_params();
    params.window = window;
    params.num_sinks = sinks;
    ck_good(tensors_run(&t, &params, level, 1));
    for (int64_t i = 0; i < nq; i++)
        if (i + nk - nq - back >= 0)
            check_found(&t, 0, i, i + nk - nq - back, "window");
    tensors_free(&t);
}

START_TEST(every_row_attends_its_window)
{
    static const int windows[] = {1, 2, 15, 24, 25, 60, 150};
    for (int s = 0; s < COUNT(windows); s++) {
        check_window(260, 260, windows[s], 0, levels[_i]);
        check_window(261, 261, windows[s], 7, levels[_i]);
        check_window(130, 261, windows[s], 0, levels[_i]);
        check_window(261, 130, windows[s], 3, levels[_i]);
    }
}
END_TEST

/* ---- predefined mask ----------------------------------------------------------------------- */

/* 7 query blocks of 32 rows (the last short), 9 key blocks of 24 (the last short). */
enum { MASK_NQ = 210, MASK_NK = 200, MASK_ROWS = 7, MASK_COLUMNS = 9 };

static hyperattn_block_mask mask_of(const int64_t *row_start, const int64_t *key_blocks)
{
    hyperattn_block_mask mask;
    hyperattn_block_mask_init(&mask);
    mask.query_block = 32;
    mask.key_block = 24;
    mask.row_start = row_start;
    mask.key_blocks = key_blocks;
    return mask;
}

/* Key block of query block a in head h. */
static int64_t listed_block(int64_t h, int64_t a)
{
    return (a * 5 + h * 3 + 1) % MASK_COLUMNS;
}

/* Each row looks for one key of the block that its mask lists, and of no other. */
START_TEST(listed_key_blocks_are_attended)
{
    for (int per_head = 0; per_head < 2; per_head++) {
        int64_t row_start[2 * MASK_ROWS + 1] = {0}, key_blocks[2 * MASK_ROWS];
        for (int64_t h = 0; h <= per_head; h++)
            for (int64_t a = 0; a < MASK_ROWS; a++) {
                int64_t r = h * MASK_ROWS + a;
                key_blocks[r] = listed_block(h, a);
                row_start[r + 1] = r + 1;
            }
        hyperattn_block_mask mask = mask_of(row_start, key_blocks);
        mask.per_head = per_head;
        hyperattn_problem p = needle_problem(2, MASK_NQ);
        p.seqlen_k = MASK_NK;
        tensors t = tensors_new(&p, AT_END);
        tensors_fill(&t, FILL_GAUSS, 3);
        for (int64_t h = 0; h < 2; h++)
            for (int64_t i = 0; i < MASK_NQ; i++) {
                int64_t block = listed_block(per_head ? h : 0, i / 32);
                put_needle(&t, h, i, block * 24 + block % 8, 8, (uint64_t)block);
            }
        hyperattn_params params = blind_params();
        params.heavy = HYPERATTN_HEAVY_SORTLSH; /* which the mask replaces */
        params.block_mask = &mask;
        for (params.sample_size = 0; params.sample_size < 2; params.sample_size++) {
            ck_good(tensors_run(&t, &params, levels[_i], 1));
            for (int64_t h = 0; h < 2; h++)
                for (int64_t i = 0; i < MASK_NQ; i++) {
                    int64_t block = listed_block(per_head ? h : 0, i / 32);
                    check_found(&t, h, i, block * 24 + block % 8, "mask");
                }
        }
        tensors_free(&t);
    }
}
END_TEST

/* Any mask, an empty one too, with all columns sampled; and a full mask without samples. */
START_TEST(a_mask_with_all_columns_is_exact)
{
    static const int64_t some_rows[] = {0, 2, 2, 5, 6, 6, 8, 17}, none[MASK_ROWS + 1] = {0};
    static const int64_t some[] = {0, 8, 1, 4, 5, 8, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 8};
    int64_t full_rows[MASK_ROWS + 1], full[MASK_ROWS * MASK_COLUMNS];
    for (int64_t r = 0; r <= MASK_ROWS; r++)
        full_rows[r] = r * MASK_COLUMNS;
    for (int64_t e = 0; e < MASK_ROWS * MASK_COLUMNS; e++)
        full[e] = e % MASK_COLUMNS;
    const struct {
        const int64_t *rows, *blocks;
        int sample_size, sinks;
    } cases[] = {
        {some_rows, some, MASK_NK, 0}, {some_rows, some, MASK_NK, 30}, {none, some, MASK_NK, 0},
        {full_rows, full, 0, 0},       {full_rows, full, MASK_NK, 5},
    };
    for (int s = 0; s < COUNT(cases); s++) {
        hyperattn_block_mask mask = mask_of(cases[s].rows, cases[s].blocks);
        hyperattn_problem p = problem_of(4, MASK_NQ, 24);
        p.nheads_kv = 2;
        p.seqlen_k = MASK_NK;
        hyperattn_params params = small_params();
        params.block_mask = &mask;
        params.sample_size = cases[s].sample_size;
        params.num_sinks = cases[s].sinks;
        ck_good_at(equals_exact(&p, &params, FILL_CLUSTERED, levels[_i]), "case %d", s);
    }
}
END_TEST

int main(void)
{
    int nlevels = topic_levels();
    TCase *topic = topic_begin("hyper");
    tcase_add_loop_test(topic, all_columns_sampled_is_exact, 0, nlevels);
    tcase_add_loop_test(topic, one_block_is_exact, 0, nlevels);
    tcase_add_loop_test(topic, a_short_causal_sequence_is_exact, 0, nlevels);
    tcase_add_loop_test(topic, ragged_batches_are_exact_with_all_columns, 0, nlevels);
    tcase_add_loop_test(topic, heads_inside_rows_are_exact_with_all_columns, 0, nlevels);
    tcase_add_loop_test(topic, values_of_one_give_one, 0, nlevels);
    tcase_add_loop_test(topic, every_row_attends_the_sinks, 0, nlevels);
    tcase_add_loop_test(topic, every_row_attends_its_window, 0, nlevels);
    tcase_add_loop_test(topic, listed_key_blocks_are_attended, 0, nlevels);
    tcase_add_loop_test(topic, a_mask_with_all_columns_is_exact, 0, nlevels);
    return topic_end();
}
