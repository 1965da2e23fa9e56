/* SPDX-License-Identifier: Apache-2.0 */
#include "multipole_cases.h"

static const multipole_case cases[] = {
    {"default", 900, 900, 1, 1, 16, 16, .sinks = 16},
    {"default, causal", 1500, 1500, 1, 1, 16, 16, .causal = 1, .sinks = 16},
    {"small leaves", 900, 900, 2, 1, 16, 16, .causal = 1, .leaf = 128, .window = 1, .selected = 8,
     .candidates = 64, .cell = 8, .far_cell = 32},
    {"more keys", 270, 1300, 1, 1, 24, 16, .selected = 20, .candidates = 128, .cell = 16,
     .far_cell = 64},
    {"more queries", 1300, 200, 1, 1, 16, 24, .selected = 3, .candidates = 16, .cell = 8,
     .far_cell = 8},
    {"causal, more keys", 300, 1400, 2, 2, 16, 20, .causal = 1, .leaf = 128, .window = 100,
     .sinks = 3, .selected = 16, .candidates = 64, .cell = 16, .far_cell = 64},
    {"causal, more queries", 1400, 800, 1, 1, 20, 16, .causal = 1, .leaf = 128, .window = 128,
     .sinks = 40, .selected = 5, .candidates = 32, .cell = 8, .far_cell = 16},
    {"one row", 1, 700, 4, 2, 16, 16, .causal = 1, .leaf = 128, .window = 1, .sinks = 1,
     .selected = 4, .candidates = 16, .cell = 8, .far_cell = 64},
    {"few keys", 300, 5, 1, 1, 16, 16, .sinks = 2, .cell = 8, .far_cell = 8},
    {"sinks alone", 300, 30, 1, 1, 16, 16, .sinks = 40},
    {"one key", 300, 1, 2, 1, 16, 16, .sinks = 0},
    {"one selected", 700, 700, 1, 1, 16, 16, .causal = 1, .leaf = 128, .window = 1, .selected = 1,
     .candidates = 1, .cell = 16, .far_cell = 32},
    {"cells of 64", 800, 800, 1, 1, 16, 16, .causal = 1, .leaf = 256, .window = 1, .sinks = 70,
     .selected = 9, .candidates = 128, .cell = 64, .far_cell = 200},
    {"cells of 128", 1200, 1200, 1, 1, 16, 16, .causal = 1, .leaf = 384, .window = 1, .sinks = 129,
     .selected = 9, .candidates = 128, .cell = 128, .far_cell = 128},
    {"one far cell", 600, 800, 1, 1, 16, 16, .sinks = 16, .selected = 16, .candidates = 64,
     .cell = 8, .far_cell = 1 << 30},
    {"all candidates", 600, 800, 1, 1, 16, 16, .sinks = 16, .selected = 16, .candidates = 1 << 30,
     .cell = 16},
    {"all candidates, causal", 800, 800, 1, 1, 16, 16, .causal = 1, .leaf = 128, .window = 1,
     .sinks = 5, .selected = 16, .candidates = 1 << 30, .cell = 16},
    {"all selected", 600, 800, 1, 1, 16, 16, .sinks = 16, .selected = 1 << 30,
     .candidates = 1 << 30, .cell = 32},
    {"long stretches", 2500, 4500, 1, 1, 8, 8, .causal = 1, .leaf = 1024, .window = 1, .sinks = 16,
     .selected = 32, .candidates = 256, .cell = 32, .far_cell = 128},
    {"long stretches, not causal", 2500, 2200, 1, 1, 8, 8, .sinks = 16, .selected = 32,
     .candidates = 256, .cell = 32, .far_cell = 128},
    {"no private keys", 900, 900, 2, 1, 16, 16, .causal = 1, .leaf = 128, .window = 1,
     .selected = 8, .candidates = 64, .depth = -1, .cell = 8, .far_cell = 32},
    {"many private keys", 600, 800, 2, 1, 16, 16, .selected = 8, .candidates = 64, .depth = 30,
     .cell = 32, .far_cell = 64},
    {"many private keys, causal", 800, 800, 1, 1, 24, 16, .causal = 1, .leaf = 128, .window = 1,
     .selected = 8, .candidates = 64, .depth = 30, .cell = 16, .far_cell = 32},
    {"odd dimensions", 500, 600, 3, 1, 13, 27, .causal = 1, .leaf = 128, .window = 1, .sinks = 7,
     .selected = 8, .candidates = 32, .cell = 8, .far_cell = 24},
    {"dimension 1", 500, 600, 1, 1, 1, 1, .causal = 1, .leaf = 128, .window = 1, .selected = 8,
     .candidates = 32, .cell = 8, .far_cell = 32},
    {"dimension 128", 400, 700, 1, 1, 128, 128, .causal = 1, .leaf = 128, .window = 1, .sinks = 4,
     .selected = 8, .candidates = 32, .cell = 16, .far_cell = 64},
    {"bf16", 700, 700, 2, 1, 32, 32, .causal = 1, .leaf = 128, .window = 1, .sinks = 16,
     .selected = 16, .candidates = 64, .cell = 16, .far_cell = 64, .dtype = HYPERATTN_BF16},
    {"bf16, not causal", 400, 700, 2, 1, 32, 32, .sinks = 16, .selected = 16, .candidates = 64,
     .cell = 16, .far_cell = 64, .dtype = HYPERATTN_BF16},
    {"f16", 700, 700, 2, 1, 32, 32, .causal = 1, .leaf = 128, .window = 1, .sinks = 16,
     .selected = 16, .candidates = 64, .cell = 16, .far_cell = 64, .dtype = HYPERATTN_F16},
    {"ragged", 1000, 1000, 2, 1, 16, 16, .sinks = 4, .selected = 8, .candidates = 64, .cell = 8,
     .far_cell = 32, .ragged = 1},
    {"ragged, causal", 1000, 1000, 2, 1, 16, 16, .causal = 1, .leaf = 128, .window = 1, .sinks = 4,
     .selected = 8, .candidates = 64, .cell = 8, .far_cell = 32, .ragged = 1},
    {"strict", 600, 600, 2, 1, 16, 16, .causal = 1, .leaf = 128, .window = 1, .sinks = 4,
     .selected = 8, .candidates = 64, .cell = 8, .far_cell = 32, .strict = 1},
    {"strict, more keys", 700, 1333, 1, 1, 16, 20, .causal = 1, .leaf = 256, .window = 100,
     .sinks = 4, .selected = 8, .candidates = 64, .cell = 16, .far_cell = 64, .strict = 1},
    {"strict, no private keys", 900, 900, 1, 1, 16, 16, .causal = 1, .leaf = 384, .window = 1,
     .selected = 8, .candidates = 64, .depth = -1, .cell = 8, .far_cell = 32, .strict = 1},
    {"strict, ragged", 1000, 1000, 2, 1, 16, 16, .causal = 1, .leaf = 128, .window = 1,
     .sinks = 4, .selected = 8, .candidates = 64, .cell = 8, .far_cell = 32, .ragged = 1,
     .strict = 1},
    {"strided", 500, 700, 4, 2, 16, 20, .causal = 1, .leaf = 128, .window = 1, .sinks = 4,
     .selected = 8, .candidates = 64, .cell = 8, .far_cell = 32, .strided = 1},
};

/* The depth where a case has none of its own. Rows with so short a past are crowded by the
 * library's (cpu/hits.h), and exact. */
#define SHALLOW 3

const multipole_cases multipole_all = {cases, sizeof cases / sizeof *cases};

int multipole_left_out(int number)
{
    return emulated() && number % 4;
}

/* The third has no key, the fourth no row. */
static const int64_t cu_seqlens_q[] = {0, 700, 701, 711, 711, 1411, 1501},
                     cu_seqlens_k[] = {0, 700, 701, 701, 705, 1005, 2005};

static void spread(int64_t stride[3], int64_t rows, int64_t heads, int64_t dim)
{
    stride[1] = dim + 3;
    stride[2] = heads * stride[1] + 5;
    stride[0] = rows * stride[2];
}

hyperattn_problem multipole_problem(const multipole_case *c)
{
    hyperattn_problem p = problem_of(c->heads, c->nq, c->d);
    p.nheads_kv = c->heads_kv;
    p.seqlen_k = c->nk;
    p.head_dim_v = c->dv;
    p.causal = c->causal;
    p.dtype = c->dtype;
    if (c->ragged) {
        p.batch = 6;
        p.cu_seqlens_q = cu_seqlens_q;
        p.cu_seqlens_k = cu_seqlens_k;
    }
    if (c->strided) {
        p.batch = 2;
        spread(p.q_stride, c->nq, c->heads, c->d);
        spread(p.k_stride, c->nk, c->heads_kv, c->d);
        spread(p.v_stride, c->nk, c->heads_kv, c->dv);
        spread(p.out_stride, c->nq, c->heads, c->dv);
    }
    return p;
}

hyperattn_params multipole_params(const multipole_case *c)
{
    hyperattn_params params;
    hyperattn_params_init(&params);
    params.method = HYPERATTN_MULTIPOLE;
    params.strict_causal = c->strict;
    params.leaf_size = c->leaf;
    params.window = c->window;
    params.num_sinks = c->sinks;
    params.num_selected = c->selected;
    params.num_candidates = c->candidates;
    params.private_depth = c->depth ? c->depth : SHALLOW;
    params.cell_size = c->cell;
    params.far_cell_size = c->far_cell;
    return params;
}
