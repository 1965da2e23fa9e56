/* SPDX-License-Identifier: Apache-2.0
 *
 * HyperAttention against the same algorithm in float64, with the same hashes and samples
 * (hyper_oracle.h): whatever was sampled, out and lse are what the algorithm says, to rounding.
 * Each test runs once per level.
 */
#include <math.h>
#include <string.h>

#include "checkmain.h"
#include "hyper_oracle.h"
#include "plan.h"

typedef struct test_case {
    const char *name;
    int64_t nq, nk, heads, heads_kv, d, dv;
    int causal, strict, sinks, window;
    int projs, block, sample, leaf; /* 0: 5, 16, 24 and 64; sample -1: none */
    hyperattn_heavy heavy;
    hyperattn_sampling sampling;
    float kappa;
    int64_t query_block, key_block; /* with a block mask */
    int per_head, sparse_mask;      /* sparse: some rows list no block */
    hyperattn_dtype dtype;
} test_case;

static const test_case unmasked[] = {
    {"even", 256, 256, 1, 1, 16, 16, .causal = 0},
    {"odd", 301, 301, 1, 1, 17, 17, .causal = 0},
    {"more queries", 333, 200, 1, 1, 16, 16, .causal = 0},
    {"more keys", 100, 333, 1, 1, 16, 16, .causal = 0},
    {"fewer queries than blocks", 5, 333, 1, 1, 16, 16, .causal = 0},
    {"one query", 1, 100, 1, 1, 16, 16, .causal = 0},
    {"groups", 120, 150, 6, 2, 16, 16, .causal = 0},
    {"dv smaller", 150, 150, 2, 1, 40, 17, .causal = 0},
    {"dv larger", 150, 150, 2, 2, 9, 80, .causal = 0},
    {"ragged last block", 209, 209, 1, 1, 16, 16, .block = 100},
    {"block of 1", 90, 90, 1, 1, 16, 16, .block = 1},
    {"block of 37", 300, 290, 1, 1, 16, 16, .block = 37, .sample = 41},
    {"long runs", 900, 800, 1, 1, 8, 8, .block = 300, .sample = 70},
    {"many samples", 700, 1300, 1, 1, 8, 8, .block = 64, .sample = 600},
    {"blocks and samples of several packs", 1500, 1500, 1, 1, 8, 8, .block = 600, .sample = 530},
    {"no samples", 200, 200, 1, 1, 16, 16, .sample = -1},
    {"one sample", 200, 200, 1, 1, 16, 16, .sample = 1},
    {"all but one column", 100, 100, 1, 1, 16, 16, .sample = 83},
    {"one projection", 200, 200, 1, 1, 16, 16, .projs = 1},
    {"nine projections", 200, 200, 1, 1, 16, 16, .projs = 9},
    {"sinks", 220, 220, 1, 1, 16, 16, .sinks = 5},
    {"many sinks", 220, 220, 1, 1, 16, 16, .sinks = 170},
    {"no block", 211, 223, 2, 1, 16, 16, .heavy = HYPERATTN_HEAVY_NONE, .sinks = 3},
    {"V-norm", 220, 230, 2, 1, 16, 16, .sampling = HYPERATTN_VNORM},
    {"V-norm, sinks", 220, 220, 1, 1, 16, 24, .sampling = HYPERATTN_VNORM, .sinks = 7},
    {"V-norm, no block", 220, 220, 1, 1, 16, 16, .heavy = HYPERATTN_HEAVY_NONE,
     .sampling = HYPERATTN_VNORM},
};

static const test_case causal[] = {
    {"even", 256, 256, 1, 1, 16, 16, .causal = 1},
    {"odd", 509, 509, 1, 1, 17, 17, .causal = 1},
    {"leaf + 1", 65, 65, 1, 1, 16, 16, .causal = 1, .sample = 7},
    {"leaf of 100", 407, 407, 1, 1, 16, 16, .causal = 1, .leaf = 100},
    {"leaf of 200", 407, 407, 1, 1, 16, 16, .causal = 1, .leaf = 200, .block = 50},
    {"groups, dv", 200, 200, 6, 3, 16, 21, .causal = 1},
    {"leading keys", 150, 320, 2, 2, 16, 16, .causal = 1},
    {"one query", 1, 203, 2, 1, 16, 16, .causal = 1},
    {"rows without keys", 320, 200, 1, 1, 16, 16, .causal = 1},
    {"sinks", 300, 300, 1, 1, 16, 16, .causal = 1, .sinks = 9},
    {"window", 300, 300, 1, 1, 16, 16, .causal = 1, .window = 21},
    {"wide window", 300, 300, 1, 1, 16, 16, .causal = 1, .window = 100},
    {"sinks, window, leading keys", 200, 320, 2, 1, 16, 16, .causal = 1, .sinks = 5, .window = 40},
    {"sinks, window, no keys", 320, 200, 1, 1, 16, 16, .causal = 1, .sinks = 5, .window = 40},
    {"no block", 300, 300, 1, 1, 16, 16, .causal = 1, .heavy = HYPERATTN_HEAVY_NONE, .window = 9},
    {"no samples", 300, 300, 1, 1, 16, 16, .causal = 1, .sample = -1},
    {"V-norm", 301, 301, 2, 1, 16, 16, .causal = 1, .sampling = HYPERATTN_VNORM, .sinks = 4,
     .window = 30},
    {"strict", 256, 256, 1, 1, 16, 16, .causal = 1, .strict = 1},
    {"strict odd", 301, 301, 2, 1, 16, 24, .causal = 1, .strict = 1, .sinks = 3, .window = 9},
    {"strict leading keys", 150, 320, 1, 1, 16, 16, .causal = 1, .strict = 1},
    {"strict, no keys", 320, 150, 1, 1, 16, 16, .causal = 1, .strict = 1},
    {"strict V-norm", 300, 300, 1, 1, 16, 16, .causal = 1, .strict = 1,
     .sampling = HYPERATTN_VNORM},
    {"strict, blocks of 50", 400, 400, 1, 1, 16, 16, .causal = 1, .strict = 1, .block = 50},
};

static const test_case masked[] = {
    {"shared", 210, 200, 2, 2, 16, 16, .query_block = 32, .key_block = 24},
    {"per head", 210, 200, 4, 2, 16, 16, .query_block = 32, .key_block = 24, .per_head = 1},
    {"sparse", 210, 200, 2, 2, 16, 16, .query_block = 20, .key_block = 10, .sparse_mask = 1},
    {"sinks cut a block", 210, 200, 1, 1, 16, 16, .query_block = 32, .key_block = 24, .sinks = 30},
    {"blocks of 1", 50, 90, 1, 1, 16, 16, .query_block = 1, .key_block = 1, .sample = 9},
    {"V-norm", 210, 200, 1, 1, 16, 16, .query_block = 32, .key_block = 24,
     .sampling = HYPERATTN_VNORM, .sinks = 3},
    {"causal", 300, 300, 2, 1, 16, 16, .causal = 1, .query_block = 64, .key_block = 32},
    {"causal, unaligned", 301, 301, 1, 1, 16, 16, .causal = 1, .query_block = 50, .key_block = 23,
     .sinks = 5, .window = 30},
    {"causal, per head, leading", 150, 301, 4, 2, 16, 16, .causal = 1, .query_block = 40,
     .key_block = 16, .per_head = 1, .sparse_mask = 1},
    {"causal, no keys", 301, 150, 1, 1, 16, 16, .causal = 1, .query_block = 40, .key_block = 16,
     .sampling = HYPERATTN_VNORM},
};

static const test_case capped[] = {
    {"kappa 2", 256, 256, 1, 1, 16, 16, .kappa = 2},
    {"kappa 1e6", 256, 256, 1, 1, 16, 16, .kappa = 1e6f},
    {"kappa 1, more queries", 333, 200, 2, 1, 16, 16, .kappa = 1, .sinks = 5},
    {"kappa 20, no block", 200, 200, 1, 1, 16, 16, .kappa = 20, .heavy = HYPERATTN_HEAVY_NONE},
    {"kappa 20, no samples", 200, 200, 1, 1, 16, 16, .kappa = 20, .sample = -1},
    {"kappa 20, many tiles", 500, 500, 1, 1, 16, 16, .kappa = 20, .sample = 150},
    {"kappa 3, V-norm", 300, 300, 1, 1, 16, 16, .kappa = 3, .sampling = HYPERATTN_VNORM},
    {"kappa 5, causal", 301, 301, 2, 1, 16, 16, .kappa = 5, .causal = 1, .sinks = 3, .window = 20},
    {"kappa 50, causal, leading", 150, 320, 1, 1, 16, 16, .kappa = 50, .causal = 1},
    {"kappa 5, mask", 210, 200, 2, 1, 16, 16, .kappa = 5, .query_block = 32, .key_block = 24,
     .per_head = 1},
};

static const test_case halves[] = {
    {"bf16", 220, 250, 4, 2, 24, 20, .dtype = HYPERATTN_BF16, .sinks = 3},
    {"bf16 causal", 301, 301, 1, 1, 16, 16, .dtype = HYPERATTN_BF16, .causal = 1, .window = 20},
    {"bf16 strict", 256, 256, 1, 1, 16, 16, .dtype = HYPERATTN_BF16, .causal = 1, .strict = 1},
    {"bf16 V-norm", 220, 220, 1, 1, 17, 17, .dtype = HYPERATTN_BF16, .sampling = HYPERATTN_VNORM},
    {"bf16 mask", 210, 200, 1, 1, 16, 16, .dtype = HYPERATTN_BF16, .query_block = 32,
     .key_block = 24},
    {"f16", 220, 250, 4, 2, 24, 20, .dtype = HYPERATTN_F16, .sinks = 3},
    {"f16 causal", 301, 301, 1, 1, 16, 16, .dtype = HYPERATTN_F16, .causal = 1, .window = 20},
    {"f16 strict", 256, 256, 1, 1, 16, 16, .dtype = HYPERATTN_F16, .causal = 1, .strict = 1},
    {"f16 V-norm", 220, 220, 1, 1, 17, 17, .dtype = HYPERATTN_F16, .sampling = HYPERATTN_VNORM},
};

/* ---- from a case to the library's structs --------------------------------------------------- */

static int or_default(int value, int fallback)
{
    return value ? value : fallback;
}

static hyperattn_problem case_problem(const test_case *c)
{
    hyperattn_problem p = problem_of(c->heads, c->nq, c->d);
    p.nheads_kv = c->heads_kv;
    p.seqlen_k = c->nk;
    p.head_dim_v = c->dv;
    p.causal = c->causal;
    p.dtype = c->dtype;
    return p;
}

static hyperattn_params case_params(const test_case *c)
{
    hyperattn_params params;
    hyperattn_params_init(&params);
    params.method = HYPERATTN_HYPER;
    params.heavy = c->heavy;
    params.sampling = c->sampling;
    params.lsh_num_projs = or_default(c->projs, 5);
    params.block_size = or_default(c->block, 16);
    params.sample_size = c->sample < 0 ? 0 : or_default(c->sample, 24);
    params.min_seq_len = or_default(c->leaf, 64);
    params.num_sinks = c->sinks;
    params.window = c->window;
    params.strict_causal = c->strict;
    params.kappa_cap = c->kappa;
    params.seed = UINT64_C(0x1234567890);
    return params;
}

enum { MASK_ROWS = 256, MASK_ENTRIES = 8192 };

/* A block mask with random entries, in the arrays of the caller. */
static hyperattn_block_mask case_mask(const test_case *c, int64_t *row_start, int64_t *key_blocks)
{
    hyperattn_block_mask mask;
    hyperattn_block_mask_init(&mask);
    mask.query_block = c->query_block;
    mask.key_block = c->key_block;
    mask.per_head = c->per_head;
    mask.row_start = row_start;
    mask.key_blocks = key_blocks;
    int64_t nblocks = (c->nk + c->key_block - 1) / c->key_block;
    int64_t rows = (c->nq + c->query_block - 1) / c->query_block * (c->per_head ? c->heads : 1);
    rng r = rng_new(12);
    row_start[0] = 0;
    for (int64_t row = 0; row < rows; row++) {
        int64_t n = row_start[row];
        int nothing = c->sparse_mask && row % 3 == 1;
        for (int64_t block = 0; block < nblocks && !nothing; block++)
            if (rng_below(&r, 4) == 0)
                key_blocks[n++] = block;
        row_start[row + 1] = n;
    }
    return mask;
}

/* ---- the comparison ------------------------------------------------------------------------ */

/* Fills t so that no projection is too near to its threshold for f32: about one fill in ten is.
 * The oracle is the caller's to free. */
static oracle fill_clearly(tensors *t, const hyperattn_plan *plan, hyper_counts *counts)
{
    for (uint64_t seed = 1;; seed++) {
        tensors_fill(t, seed % 2 ? FILL_CLUSTERED : FILL_GAUSS, seed);
        oracle o = hyper_oracle(t, plan, counts);
        if (!counts->ambiguous || seed == 20)
            return o;
        oracle_free(&o);
    }
}

static const char *compare(tensors *t, hyperattn_ctx *ctx, const hyperattn_params *params,
                           hyper_counts *counts)
{
    hyperattn_plan *plan;
    if (!ctx || hyperattn_plan_create(&plan, ctx, &t->problem, params) != HYPERATTN_OK)
        return failure("no plan: %s", hyperattn_last_error());
    oracle o = fill_clearly(t, plan, counts);
    const char *why = tensors_forward(t, ctx, params);
    if (!why && counts->ambiguous)
        why = failure("%lld projections are too near to their thresholds",
                      (long long)counts->ambiguous);
    if (!why)
        why = oracle_compare(&o, t, 1);
    oracle_free(&o);
    hyperattn_plan_destroy(plan);
    return why;
}

/* Each case must have met what it is about, or it would prove nothing. */
static const char *check_counts(const test_case *c, const hyper_counts *counts)
{
    int has_exact = c->heavy == HYPERATTN_HEAVY_SORTLSH || c->sinks || c->window || c->query_block;
    if ((counts->weighted > 0) != (c->sample >= 0) || (counts->exact > 0) != has_exact ||
        (counts->leaf > 0) != (c->causal && c->nq))
        return failure("%lld exact pairs, %lld weighted ones, %lld in leaves",
                       (long long)counts->exact, (long long)counts->weighted,
                       (long long)counts->leaf);
    return NULL;
}

static const char *run_case(const test_case *c, const char *level, hyper_counts *counts)
{
    int64_t row_start[MASK_ROWS], key_blocks[MASK_ENTRIES];
    hyperattn_block_mask mask;
    hyperattn_problem problem = case_problem(c);
    hyperattn_params params = case_params(c);
    if (c->query_block) {
        mask = case_mask(c, row_start, key_blocks);
        params.block_mask = &mask;
    }
    tensors t = tensors_new(&problem, AT_END);
    hyperattn_ctx *ctx = ctx_at(level, 1);
    const char *why = compare(&t, ctx, &params, counts);
    hyperattn_ctx_destroy(ctx);
    tensors_free(&t);
    return why ? why : check_counts(c, counts);
}

static void run_cases(const test_case *cases, int n, const char *level)
{
    for (int c = 0; c < n; c++) {
        hyper_counts counts;
        ck_good_at(run_case(&cases[c], level, &counts), "%s: %s", level, cases[c].name);
    }
}

START_TEST(unmasked_attention_is_the_algorithm)
{
    run_cases(unmasked, COUNT(unmasked), levels[_i]);
}
END_TEST

START_TEST(causal_attention_is_the_algorithm)
{
    run_cases(causal, COUNT(causal), levels[_i]);
}
END_TEST

START_TEST(a_block_mask_replaces_the_hash)
{
    run_cases(masked, COUNT(masked), levels[_i]);
}
END_TEST

/* Small kappas raise row sums, large ones lower entries. */
START_TEST(kappa_caps_entries_and_sums)
{
    int64_t lowered = 0, raised = 0;
    for (int c = 0; c < COUNT(capped); c++) {
        hyper_counts counts;
        ck_good_at(run_case(&capped[c], levels[_i], &counts), "%s: %s", levels[_i],
                   capped[c].name);
        lowered += counts.capped > 0;
        raised += counts.floored > 0;
    }
    ck_assert_int_ge(lowered, 4);
    ck_assert_int_ge(raised, 4);
}
END_TEST

START_TEST(sixteen_bit_tensors_are_the_algorithm)
{
    run_cases(halves, COUNT(halves), levels[_i]);
}
END_TEST

/* ---- batches ------------------------------------------------------------------------------- */

START_TEST(ragged_batches_are_the_algorithm)
{
    static const int64_t cu_q[] = {0, 160, 160, 161, 391, 411};
    static const int64_t cu_k[] = {0, 141, 150, 151, 381, 381};
    for (int is_causal = 0; is_causal < 2; is_causal++)
        for (int sampling = HYPERATTN_UNIFORM; sampling <= HYPERATTN_VNORM; sampling++) {
            const test_case c = {"", 230, 230, 4, 2, 16, 16, .causal = is_causal, .sinks = 3,
                                 .sampling = (hyperattn_sampling)sampling};
            hyperattn_problem p = case_problem(&c);
            hyperattn_params params = case_params(&c);
            p.batch = COUNT(cu_q) - 1;
            p.cu_seqlens_q = cu_q;
            p.cu_seqlens_k = cu_k;
            tensors t = tensors_new(&p, AT_END);
            hyperattn_ctx *ctx = ctx_at(levels[_i], 1);
            hyper_counts counts;
            ck_good_at(compare(&t, ctx, &params, &counts), "causal %d, sampling %d", is_causal,
                       sampling);
            ck_assert_int_gt(counts.weighted, 0);
            hyperattn_ctx_destroy(ctx);
            tensors_free(&t);
        }
}
END_TEST

/* Every sequence and head has its own samples, and every key head its own directions; several
 * threads have several units in flight. */
START_TEST(batches_are_the_algorithm)
{
    for (int is_causal = 0; is_causal < 2; is_causal++)
        for (int kappa = 0; kappa < 8; kappa += 7) {
            const test_case c = {"", 140, 140, 4, 2, 16, 16, .causal = is_causal,
                                 .kappa = (float)kappa};
            hyperattn_problem p = case_problem(&c);
            hyperattn_params params = case_params(&c);
            p.batch = 3;
            tensors t = tensors_new(&p, AT_END);
            hyperattn_ctx *ctx = ctx_at(levels[_i], 2);
            hyper_counts counts;
            ck_good_at(compare(&t, ctx, &params, &counts), "causal %d, kappa %d", is_causal, kappa);
            ck_assert_int_gt(counts.weighted, 0);
            hyperattn_ctx_destroy(ctx);
            tensors_free(&t);
        }
}
END_TEST

int main(void)
{
    int n = topic_levels();
    TCase *topic = topic_begin("reference");
    tcase_add_loop_test(topic, unmasked_attention_is_the_algorithm, 0, n);
    tcase_add_loop_test(topic, causal_attention_is_the_algorithm, 0, n);
    tcase_add_loop_test(topic, a_block_mask_replaces_the_hash, 0, n);
    tcase_add_loop_test(topic, kappa_caps_entries_and_sums, 0, n);
    tcase_add_loop_test(topic, sixteen_bit_tensors_are_the_algorithm, 0, n);
    tcase_add_loop_test(topic, ragged_batches_are_the_algorithm, 0, n);
    tcase_add_loop_test(topic, batches_are_the_algorithm, 0, n);
    return topic_end();
}
