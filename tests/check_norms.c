/* SPDX-License-Identifier: Apache-2.0
 *
 * The norms and the hardness of hyperattn compare, against double precision over whole matrices.
 */
#include <math.h>

#include "checkmain.h"
#include "gen.h"
#include "hardness.h"
#include "spectral.h"

enum { MOST = 96, DIM = 8 };

/* ---- dense matrices -------------------------------------------------------------------------- */

/* 1 or -1: columns of [16][16] are orthogonal. */
static float hadamard(int i, int c)
{
    return __builtin_popcount((unsigned)(i & c)) % 2 ? -1.0f : 1.0f;
}

START_TEST(a_dense_norm_is_the_largest_singular_value)
{
    float a[16][5], b[16][5];
    for (int i = 0; i < 16; i++) {
        for (int c = 0; c < 5; c++) {
            a[i][c] = hadamard(i, c) * (float)(c + 1) / 4; /* singular values 1 to 5 */
            b[i][c] = hadamard(i, c) * (c == 4 ? 1.0f : 0.0f);
        }
    }
    ck_assert_double_eq_tol(spectral_dense(a[0], NULL, 16, 5), 5, 1e-5);
    /* the largest becomes 1, and 4 is left */
    ck_assert_double_eq_tol(spectral_dense(a[0], b[0], 16, 5), 4, 1e-5);
    ck_assert_double_eq(spectral_dense(a[0], a[0], 16, 5), 0);
    a[7][2] = NAN;
    ck_assert(isnan(spectral_dense(a[0], NULL, 16, 5)));
}
END_TEST

/* ---- one head -------------------------------------------------------------------------------- */

typedef struct head {
    hyperattn_ctx *ctx;
    hyperattn_problem problem;
    hyperattn_params params;
    float q[MOST * DIM], k[MOST * DIM];
    double a[MOST][MOST], p[MOST][MOST]; /* exp(scores), and its rows over their sums */
} head;

static void fill(float *x, gen_tensor tensor, int64_t rows, double sharpness)
{
    gen_spec spec = {.kind = GEN_GAUSS, .seed = 5, .sharpness = sharpness, .heads = 1,
                     .heads_kv = 1, .dim = DIM};
    ck_assert_int_eq(gen_fill(&spec, tensor, rows, HYPERATTN_F32, x), 0);
}

static head *make_head(int64_t nq, int64_t nk, int causal, float scale)
{
    head *h = calloc(1, sizeof *h);
    ck_assert_ptr_nonnull(h);
    ck_assert_int_eq(hyperattn_ctx_create(&h->ctx, NULL), 0);
    hyperattn_problem whole;
    hyperattn_problem_init(&whole);
    whole.nheads = 3;
    whole.seqlen_q = nq;
    whole.seqlen_k = nk;
    whole.head_dim = DIM;
    whole.causal = causal;
    whole.softmax_scale = scale;
    softmax_problem(&h->problem, &whole);
    hyperattn_params_init(&h->params);
    h->params.method = HYPERATTN_EXACT;
    fill(h->q, GEN_Q, nq, 2);
    fill(h->k, GEN_K, nk, 1);
    for (int64_t i = 0; i < nq; i++) {
        double sum = 0;
        for (int64_t j = 0; j < nk; j++) {
            double score = 0;
            for (int c = 0; c < DIM; c++)
                score += (double)h->q[i * DIM + c] * h->k[j * DIM + c];
            score *= scale != 0 ? scale : 1 / sqrt(DIM);
            h->a[i][j] = causal && j > i + nk - nq ? 0 : exp(score);
            sum += h->a[i][j];
        }
        for (int64_t j = 0; j < nk; j++)
            h->p[i][j] = sum > 0 ? h->a[i][j] / sum : 0;
    }
    return h;
}

static void head_free(head *h)
{
    hyperattn_ctx_destroy(h->ctx);
    free(h);
}

/* Of p, in double and for as long as any matrix of this size needs. */
static double norm_of(const head *h)
{
    double x[MOST], length = 0;
    for (int j = 0; j < MOST; j++)
        x[j] = 1;
    for (int step = 0; step < 4000; step++) {
        double next[MOST] = {0}, square = 0;
        for (int64_t i = 0; i < h->problem.seqlen_q; i++) {
            double y = 0;
            for (int64_t j = 0; j < h->problem.seqlen_k; j++)
                y += h->p[i][j] * x[j];
            for (int64_t j = 0; j < h->problem.seqlen_k; j++)
                next[j] += h->p[i][j] * y;
        }
        for (int64_t j = 0; j < h->problem.seqlen_k; j++)
            square += next[j] * next[j];
        length = sqrt(square);
        for (int64_t j = 0; j < h->problem.seqlen_k; j++)
            x[j] = next[j] / length;
    }
    return sqrt(length);
}

static double alpha_of(const head *h, int64_t first)
{
    double most = 0;
    for (int64_t j = first; j < h->problem.seqlen_k; j++) {
        double sum = 0;
        for (int64_t i = 0; i < h->problem.seqlen_q; i++)
            sum += h->p[i][j] * h->p[i][j];
        most = fmax(most, sum);
    }
    return most * (double)h->problem.seqlen_k;
}

static const struct {
    int64_t nq, nk;
    int causal;
    float scale;
} cases[] = {{96, 96, 0, 0}, {96, 96, 1, 0}, {33, 70, 1, 1.5f}, {70, 33, 0, 0}, {70, 33, 1, 0}};

enum { CASES = sizeof cases / sizeof cases[0] };

START_TEST(the_softmax_norm_is_that_of_the_matrix)
{
    head *h = make_head(cases[_i].nq, cases[_i].nk, cases[_i].causal, cases[_i].scale);
    softmax s;
    double norm = 0, wanted = norm_of(h);
    ck_assert_int_eq(softmax_open(&s, h->ctx, &h->problem, &h->params, h->q, h->k), 0);
    ck_assert_int_eq(spectral_softmax(&norm, &s), 0);
    ck_assert_double_le(norm, wanted * (1 + 1e-5));
    ck_assert_double_ge(norm, wanted * (1 - 1e-3));
    softmax_close(&s);
    head_free(h);
}
END_TEST

START_TEST(alpha_is_that_of_the_matrix)
{
    head *h = make_head(cases[_i].nq, cases[_i].nk, cases[_i].causal, cases[_i].scale);
    hardness found;
    h->params.num_sinks = 3;
    ck_assert_int_eq(hardness_measure(&found, h->ctx, &h->problem, &h->params, h->q, h->k), 0);
    ck_assert_double_eq_tol(found.alpha / alpha_of(h, 0), 1, 1e-4);
    ck_assert_double_eq_tol(found.alpha_beside / alpha_of(h, 3), 1, 1e-4);
    head_free(h);
}
END_TEST

/* With the sinks as the only exact columns, kappa is that of the row sums of the others. */
START_TEST(kappa_is_that_of_the_row_sums_beside_exact_columns)
{
    head *h = make_head(90, 90, 0, 0);
    hardness found;
    double low = INFINITY, high = 0;
    h->params.num_sinks = 4;
    h->params.heavy = HYPERATTN_HEAVY_NONE;
    ck_assert_int_eq(hardness_measure(&found, h->ctx, &h->problem, &h->params, h->q, h->k), 0);
    for (int i = 0; i < 90; i++) {
        double sum = 0;
        for (int j = 4; j < 90; j++)
            sum += h->a[i][j];
        low = fmin(low, sum);
        high = fmax(high, sum);
    }
    ck_assert_int_eq(found.kappa_rows, 90);
    ck_assert_double_eq_tol(found.kappa / (high / low), 1, 1e-3);
    head_free(h);
}
END_TEST

/* A causal sequence no longer than a leaf is exact altogether: nothing is left to take kappa of. */
START_TEST(kappa_needs_keys_beside_exact_columns)
{
    head *h = make_head(90, 90, 1, 0);
    hardness found;
    ck_assert_int_eq(hardness_measure(&found, h->ctx, &h->problem, &h->params, h->q, h->k), 0);
    ck_assert_int_eq(found.kappa_rows, 0);
    ck_assert(isnan(found.kappa));
    ck_assert(isfinite(found.alpha));
    h->params.num_sinks = 90;
    ck_assert_int_eq(hardness_measure(&found, h->ctx, &h->problem, &h->params, h->q, h->k), 0);
    ck_assert(isnan(found.alpha_beside));
    head_free(h);
}
END_TEST

int main(void)
{
    TCase *topic = topic_begin("norms");
    tcase_add_test(topic, a_dense_norm_is_the_largest_singular_value);
    tcase_add_loop_test(topic, the_softmax_norm_is_that_of_the_matrix, 0, CASES);
    tcase_add_loop_test(topic, alpha_is_that_of_the_matrix, 0, CASES);
    tcase_add_test(topic, kappa_is_that_of_the_row_sums_beside_exact_columns);
    tcase_add_test(topic, kappa_needs_keys_beside_exact_columns);
    return topic_end();
}
