/* SPDX-License-Identifier: Apache-2.0
 *
 * Generated queries, keys and values. Each element is a function of (kind, seed, sharpness, heads,
 * dim, its place) alone: neither the number of threads nor the number of rows matters, and a
 * longer input starts with a shorter one. Queries of one group (GQA) share the structure of their
 * key head.
 *
 * Notation: N is a fresh vector of independent standard normals, d the head dimension; indices
 * that do not appear are shared. Every query is multiplied by the sharpness at the end.
 *
 * gauss      q_i = N_i, k_j = N_j, v_j = N_j: softmax is nearly uniform. The usual benchmark.
 *
 * clustered  64 centres c and value centres w, each N, for a key head. Every row belongs to a
 *            random cluster a:
 *                q_i = c_a(i) + N_i / 2      k_j = c_a(j) + N_j / 2      v_j = w_a(j) + N_j
 *            A key of the query's own cluster scores about sqrt(d), any other about 0 +- 1.
 *
 * llm        what rotary models show: a common offset, outlier channels, an attention sink, and
 *            locality. slow_i is an N every 64 rows, interpolated between and kept at variance 1.
 *                q_i = rope_i(N / 2 + 0.9 slow_i + N_i)
 *                k_j = rope_j(N     + 0.9 slow_j + N_j)
 *                v_j = N / 2 + 0.7 slow'_j + 0.7 N_j
 *            Two more channels of every key hold +6 and -6. One channel serves the sink: queries
 *            hold 4 there, keys 0, and key 0, whose value is nearly zero, 2.5 sqrt(d). rope is the
 *            rotary embedding with halves paired and base 500000; the extra channels lie at its
 *            lowest frequencies, so that they reach far.
 *
 * needle     Every query wants one key before it: the softmax is all but a choice of one. P(i) is
 *            one of the rows 0 to i, all equally likely.
 *                q_i = 0.3 N_i + 1.6 k_P(i)      k_j = N_j      v_j = N_j
 *            The wanted key scores about 1.6 sqrt(d), any other about 0 +- 1.6.
 *
 * perm       Every key is wanted by one query: P permutes each range of rows from 2^e to
 *            2^(e+1) - 1, so that at a power of two it permutes all rows. With a causal mask a
 *            query whose key comes later does not see it.
 *                q_i = 1.7 k_P(i)                k_j = N_j      v_j = N_j
 *
 * needle64   64 keys are twice as long as others, and each query leans on one of them: needle c is
 *            a random row of the 128 from 128 c on, and a query's is one of those whose 128 rows
 *            lie before it, or needle 0.
 *                q_i = N_i + 1.2 k_needle        k_j = N_j, twice that for a needle     v_j = N_j
 *
 * In each kind the gradient of the output, for backward, is dout_i = N_i.
 */
#ifndef BENCH_GEN_H
#define BENCH_GEN_H

#include <stdint.h>

#include "hyperattn.h"

typedef enum gen_kind {
    GEN_GAUSS,
    GEN_CLUSTERED,
    GEN_LLM,
    GEN_NEEDLE,
    GEN_PERM,
    GEN_NEEDLE64,
    GEN_KINDS
} gen_kind;

typedef enum gen_tensor {
    GEN_Q,
    GEN_K,
    GEN_V,
    GEN_DOUT /* heads as the queries */
} gen_tensor;

typedef struct gen_spec {
    gen_kind kind;
    uint64_t seed;
    double sharpness;       /* 1: as above */
    int64_t heads, heads_kv; /* heads is a multiple of heads_kv */
    int64_t dim;            /* below 2^31 */
} gen_spec;

enum {
    GEN_MAX_DIM = 65536 /* keeps a row's scratch memory small */
};

/* Fills dst [heads of the tensor, rows, dim] in parallel. Returns 0, or -1 without memory. */
int gen_fill(const gen_spec *spec, gen_tensor tensor, int64_t rows, hyperattn_dtype dtype,
             void *dst);

#endif
