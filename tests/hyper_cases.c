/* SPDX-License-Identifier: Apache-2.0 */
#include "hyper_cases.h"

#include <string.h>

static const hyper_case unmasked[] = {
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
    {"V-norm", 220, 230, 2, 1, 16, 16, .sampling = HYPERATTN_SAMPLING_VNORM},
    {"V-norm, sinks", 220, 220, 1, 1, 16, 24, .sampling = HYPERATTN_SAMPLING_VNORM, .sinks = 7},
    {"V-norm, no block", 220, 220, 1, 1, 16, 16, .heavy = HYPERATTN_HEAVY_NONE,
     .sampling = HYPERATTN_SAMPLING_VNORM},
};

static const hyper_case causal[] = {
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
    {"V-norm", 301, 301, 2, 1, 16, 16, .causal = 1, .sinks = 4, .window = 30,
     .sampling = HYPERATTN_SAMPLING_VNORM},
    {"strict", 256, 256, 1, 1, 16, 16, .causal = 1, .strict = 1},
    {"strict odd", 301, 301, 2, 1, 16, 24, .causal = 1, .strict = 1, .sinks = 3, .window = 9},
    {"strict leading keys", 150, 320, 1, 1, 16, 16, .causal = 1, .strict = 1},
    {"strict, no keys", 320, 150, 1, 1, 16, 16, .causal = 1, .strict = 1},
    {"strict V-norm", 300, 300, 1, 1, 16, 16, .causal = 1, .strict = 1,
     .sampling = HYPERATTN_SAMPLING_VNORM},
    {"strict, blocks of 50", 400, 400, 1, 1, 16, 16, .causal = 1, .strict = 1, .block = 50},
};

static const hyper_case masked[] = {
    {"shared", 210, 200, 2, 2, 16, 16, .query_block = 32, .key_block = 24},
    {"per head", 210, 200, 4, 2, 16, 16, .query_block = 32, .key_block = 24, .per_head = 1},
    {"sparse", 210, 200, 2, 2, 16, 16, .query_block = 20, .key_block = 10, .sparse_mask = 1},
    {"sinks cut a block", 210, 200, 1, 1, 16, 16, .query_block = 32, .key_block = 24, .sinks = 30},
    {"blocks of 1", 50, 90, 1, 1, 16, 16, .query_block = 1, .key_block = 1, .sample = 9},
    {"V-norm", 210, 200, 1, 1, 16, 16, .query_block = 32, .key_block = 24,
     .sampling = HYPERATTN_SAMPLING_VNORM, .sinks = 3},
    {"causal", 300, 300, 2, 1, 16, 16, .causal = 1, .query_block = 64, .key_block = 32},
    {"causal, unaligned", 301, 301, 1, 1, 16, 16, .causal = 1, .query_block = 50, .key_block = 23,
     .sinks = 5, .window = 30},
    {"causal, per head, leading", 150, 301, 4, 2, 16, 16, .causal = 1, .query_block = 40,
     .key_block = 16, .per_head = 1, .sparse_mask = 1},
    {"causal, no keys", 301, 150, 1, 1, 16, 16, .causal = 1, .query_block = 40, .key_block = 16,
     .sampling = HYPERATTN_SAMPLING_VNORM},
};

static const hyper_case capped[] = {
    {"kappa 2", 256, 256, 1, 1, 16, 16, .kappa = 2},
    {"kappa 1e6", 256, 256, 1, 1, 16, 16, .kappa = 1e6f},
    {"kappa 1, more queries", 333, 200, 2, 1, 16, 16, .kappa = 1, .sinks = 5},
    {"kappa 20, no block", 200, 200, 1, 1, 16, 16, .kappa = 20, .heavy = HYPERATTN_HEAVY_NONE},
    {"kappa 20, no samples", 200, 200, 1, 1, 16, 16, .kappa = 20, .sample = -1},
    {"kappa 20, many tiles", 500, 500, 1, 1, 16, 16, .kappa = 20, .sample = 150},
    {"kappa 3, V-norm", 300, 300, 1, 1, 16, 16, .kappa = 3, .sampling = HYPERATTN_SAMPLING_VNORM},
    {"kappa 5, causal", 301, 301, 2, 1, 16, 16, .kappa = 5, .causal = 1, .sinks = 3, .window = 20},
    {"kappa 50, causal, leading", 150, 320, 1, 1, 16, 16, .kappa = 50, .causal = 1},
    {"kappa 5, mask", 210, 200, 2, 1, 16, 16, .kappa = 5, .query_block = 32, .key_block = 24,
     .per_head = 1},
};

static const hyper_case halves[] = {
    {"bf16", 220, 250, 4, 2, 24, 20, .dtype = HYPERATTN_BF16, .sinks = 3},
    {"bf16 causal", 301, 301, 1, 1, 16, 16, .dtype = HYPERATTN_BF16, .causal = 1, .window = 20},
    {"bf16 strict", 256, 256, 1, 1, 16, 16, .dtype = HYPERATTN_BF16, .causal = 1, .strict = 1},
    {"bf16 V-norm", 220, 220, 1, 1, 17, 17, .dtype = HYPERATTN_BF16,
     .sampling = HYPERATTN_SAMPLING_VNORM},
    {"bf16 mask", 210, 200, 1, 1, 16, 16, .dtype = HYPERATTN_BF16, .query_block = 32,
     .key_block = 24},
    {"f16", 220, 250, 4, 2, 24, 20, .dtype = HYPERATTN_F16, .sinks = 3},
    {"f16 causal", 301, 301, 1, 1, 16, 16, .dtype = HYPERATTN_F16, .causal = 1, .window = 20},
    {"f16 strict", 256, 256, 1, 1, 16, 16, .dtype = HYPERATTN_F16, .causal = 1, .strict = 1},
    {"f16 V-norm", 220, 220, 1, 1, 17, 17, .dtype = HYPERATTN_F16,
     .sampling = HYPERATTN_SAMPLING_VNORM},
};

const hyper_cases cases_unmasked = {unmasked, sizeof unmasked / sizeof *unmasked};
const hyper_cases cases_causal = {causal, sizeof causal / sizeof *causal};
const hyper_cases cases_masked = {masked, sizeof masked / sizeof *masked};
const hyper_cases cases_capped = {capped, sizeof capped / sizeof *capped};
const hyper_cases cases_halves = {halves, sizeof halves / sizeof *halves};

/* ---- from a case to the library's structs --------------------------------------------------- */

static int or_default(int value, int fallback)
{
    return value ? value : fallback;
}

static hyperattn_problem case_problem(const hyper_case *c)
{
    hyperattn_problem p = problem_of(c->heads, c->nq, c->d);
    p.nheads_kv = c->heads_kv;
    p.seqlen_k = c->nk;
    p.head_dim_v = c->dv;
    p.causal = c->causal;
    p.dtype = c->dtype;
    return p;
}

static hyperattn_params case_params(const hyper_case *c)
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

/* A block mask with random entries. */
static void case_mask(hyper_subject *s, const hyper_case *c)
{
    hyperattn_block_mask_init(&s->mask);
    s->mask.query_block = c->query_block;
    s->mask.key_block = c->key_block;
    s->mask.per_head = c->per_head;
    s->mask.row_start = s->row_start;
    s->mask.key_blocks = s->key_blocks;
    s->params.block_mask = &s->mask;
    int64_t nblocks = (c->nk + c->key_block - 1) / c->key_block;
    int64_t rows = (c->nq + c->query_block - 1) / c->query_block * (c->per_head ? c->heads : 1);
    rng r = rng_new(12);
    for (int64_t row = 0; row < rows; row++) {
        int64_t n = s->row_start[row];
        int nothing = c->sparse_mask && row % 3 == 1;
        for (int64_t block = 0; block < nblocks && !nothing; block++)
            if (rng_below(&r, 4) == 0)
                s->key_blocks[n++] = block;
        s->row_start[row + 1] = n;
    }
}

void hyper_subject_init(hyper_subject *s, const hyper_case *c)
{
    memset(s, 0, sizeof *s);
    s->problem = case_problem(c);
    s->params = case_params(c);
    if (c->query_block)
        case_mask(s, c);
}

const char *hyper_fill_clearly(tensors *t, const hyperattn_plan *plan, pattern *p, oracle *o,
                               hyper_counts *counts)
{
    for (uint64_t seed = 1;; seed++) {
        tensors_fill(t, seed % 2 ? FILL_CLUSTERED : FILL_GAUSS, seed);
        *p = hyper_pattern(t, plan, counts);
        *o = pattern_forward(t, p, counts);
        if (!counts->ambiguous)
            return NULL;
        if (seed == 20)
            return failure("%lld projections are too near to their thresholds",
                           (long long)counts->ambiguous);
        pattern_free(p);
        oracle_free(o);
    }
}

const char *hyper_check_counts(const hyper_case *c, const hyper_counts *counts)
{
    int has_exact = c->heavy == HYPERATTN_HEAVY_SORTLSH || c->sinks || c->window || c->query_block;
    if ((counts->weighted > 0) != (c->sample >= 0) || (counts->exact > 0) != has_exact ||
        (counts->leaf > 0) != (c->causal && c->nq))
        return failure("%lld exact pairs, %lld weighted ones, %lld in leaves",
                       (long long)counts->exact, (long long)counts->weighted,
                       (long long)counts->leaf);
    return NULL;
}
