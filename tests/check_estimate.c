/* SPDX-License-Identifier: Apache-2.0
 *
 * The statistics of HyperAttention: sampled row sums and products are unbiased, their error falls
 * with the number of samples, and nothing that is not a key enters them. All over fixed seeds, so
 * a result is reproducible; bounds are in standard errors of the mean over the seeds.
 */
#include <math.h>
#include <string.h>

#include "checkmain.h"
#include "oracle.h"

static hyperattn_params small_params(void)
{
    hyperattn_params params;
    hyperattn_params_init(&params);
    params.method = HYPERATTN_HYPER;
    params.block_size = 32;
    params.sample_size = 24;
    params.min_seq_len = 40;
    params.num_sinks = 0;
    return params;
}

/* ---- unbiasedness -------------------------------------------------------------------------- */

/* Running mean and variance. */
typedef struct mean {
    double n, mean, squares;
} mean;

static void mean_add(mean *m, double x)
{
    double step = x - m->mean;
    m->n++;
    m->mean += step / m->n;
    m->squares += step * (x - m->mean);
}

/* Distance of the mean from want in standard errors; rounding of f32 counts for nothing. */
static double mean_z(const mean *m, double want)
{
    double error = sqrt(m->squares / (m->n - 1) / m->n);
    return fabs(m->mean - want) / (error + 1e-5 * (1 + fabs(want)));
}

/* What the estimates of one setting say over many seeds. */
typedef struct verdict {
    double sum_z;     /* of the sum of all row sums, each divided by the true one */
    double product_z; /* of a random linear form of A V, likewise */
    double worst_row_z, mean_row_z2;
    int64_t worst_row;
} verdict;

static verdict estimate(tensors *t, hyperattn_params params, int seeds, const char *level)
{
    oracle o = oracle_exact(t);
    double *form = malloc((size_t)(o.rows * o.dv) * sizeof *form), true_product = 0;
    mean sum = {0}, product = {0}, *rows = calloc((size_t)o.rows, sizeof *rows);
    rng r = rng_new(77);
    for (int64_t e = 0; e < o.rows * o.dv; e++)
        true_product += (form[e] = rng_gauss(&r)) * o.out[e];
    hyperattn_ctx *ctx = ctx_at(level, 1);
    for (int s = 0; s < seeds; s++) {
        params.seed = (uint64_t)s * 0x10001 + 1;
        ck_good(tensors_forward(t, ctx, &params));
        double all = 0, form_value = 0;
        for (int64_t h = 0; h < t->full.nheads; h++)
            for (int64_t i = 0; i < t->full.seqlen_q; i++) {
                int64_t row = tensors_row(t, 0, h, i);
                double ratio = exp((double)tensors_lse(t, 0, h, i) - o.lse[row]);
                mean_add(&rows[row], ratio);
                all += ratio / (double)o.rows;
                for (int64_t c = 0; c < o.dv; c++)
                    form_value += form[row * o.dv + c] * ratio * tensors_get(t, T_OUT, 0, h, i, c);
            }
        mean_add(&sum, all);
        mean_add(&product, form_value);
    }
    verdict v = {mean_z(&sum, 1), mean_z(&product, true_product), 0, 0, 0};
    for (int64_t row = 0; row < o.rows; row++) {
        double z = mean_z(&rows[row], 1);
        v.mean_row_z2 += z * z / (double)o.rows;
        if (z > v.worst_row_z) {
            v.worst_row_z = z;
            v.worst_row = row;
        }
    }
    hyperattn_ctx_destroy(ctx);
    oracle_free(&o);
    free(form);
    free(rows);
    return v;
}

static void check_unbiased(const verdict *v, const char *what)
{
    ck_assert_msg(v->sum_z < 4, "%s: row sums are %.1f standard errors off", what, v->sum_z);
    ck_assert_msg(v->product_z < 4, "%s: A V is %.1f standard errors off", what, v->product_z);
    ck_assert_msg(v->worst_row_z < 5, "%s: the sum of row %lld is %.1f standard errors off", what,
                  (long long)v->worst_row, v->worst_row_z);
    ck_assert_msg(v->mean_row_z2 < 1.8, "%s: the mean square of the rows' z is %.2f", what,
                  v->mean_row_z2);
}

typedef struct setting {
    const char *name;
    int64_t nq, nk;
    int causal, strict, sinks, window;
    hyperattn_heavy heavy;
    hyperattn_sampling sampling;
} setting;

static const setting settings[] = {
    {"uniform", 201, 201, .causal = 0},
    {"uniform, no block", 150, 201, .heavy = HYPERATTN_HEAVY_NONE},
    {"uniform, few queries", 9, 333, .causal = 0},
    {"uniform, sinks", 150, 201, .sinks = 10},
    {"vnorm", 201, 201, .sampling = HYPERATTN_SAMPLING_VNORM},
    {"vnorm, no block", 150, 201, .sampling = HYPERATTN_SAMPLING_VNORM,
     .heavy = HYPERATTN_HEAVY_NONE},
    {"vnorm, sinks", 150, 201, .sampling = HYPERATTN_SAMPLING_VNORM, .sinks = 10},
    {"causal", 203, 203, .causal = 1},
    {"causal, leading keys", 101, 203, .causal = 1},
    {"causal, sinks and window", 203, 203, .causal = 1, .sinks = 5, .window = 20},
    {"causal vnorm", 203, 203, .causal = 1, .sampling = HYPERATTN_SAMPLING_VNORM, .sinks = 5,
     .window = 20},
    {"strict", 203, 203, .causal = 1, .strict = 1},
    {"strict vnorm", 203, 203, .causal = 1, .strict = 1, .sampling = HYPERATTN_SAMPLING_VNORM},
};

/* Values whose squared norms differ by a factor of 6, and with them V-norm's probabilities; more,
 * and the rarest keys would need more seeds than a test can afford. */
static void spread_norms(tensors *t)
{
    for (int64_t j = 0; j < t->full.seqlen_k; j++)
        for (int64_t c = 0; c < t->full.head_dim_v; c++)
            tensors_put(t, T_V, 0, 0, j, c,
                        tensors_get(t, T_V, 0, 0, j, c) * (0.6 + (double)(j % 7) / 7));
}

/* A key that the own block and a sample both counted would raise the sums, and so would a sample's
 * weight that ignores how many keys lie outside the block. */
START_TEST(sampled_sums_are_unbiased)
{
    const setting *s = &settings[_i];
    hyperattn_problem p = problem_of(1, s->nq, 16);
    p.seqlen_k = s->nk;
    p.causal = s->causal;
    tensors t = tensors_new(&p, AT_END);
    tensors_fill(&t, FILL_CLUSTERED, 13);
    for (int64_t j = 0; j < s->nk; j++) /* milder than the fill: sums of a few keys say little */
        for (int64_t c = 0; c < 16; c++)
            tensors_put(&t, T_K, 0, 0, j, c, 0.4 * tensors_get(&t, T_K, 0, 0, j, c));
    spread_norms(&t);
    hyperattn_params params = small_params();
    params.heavy = s->heavy;
    params.sampling = s->sampling;
    params.strict_causal = s->strict;
    params.num_sinks = s->sinks;
    params.window = s->window;
    verdict v = estimate(&t, params, 250, NULL);
    check_unbiased(&v, s->name);
    tensors_free(&t);
}
END_TEST

static const int sample_sizes[] = {134, 50, 64, 100, 150};

/* Row i's sum hangs on key i alone, so that a key drawn too seldom or too often shows in its row:
 * first and last keys, and those at the bounds of strata, above all. */
START_TEST(every_key_has_the_same_chance)
{
    enum { N = 201, D = 208 };
    hyperattn_problem p = problem_of(1, N, D);
    p.softmax_scale = 1;
    tensors t = tensors_new(&p, AT_END);
    tensors_fill(&t, FILL_GAUSS, 2);
    for (int64_t i = 0; i < N; i++) {
        tensors_set_row(&t, T_Q, 0, 0, i, 0);
        tensors_set_row(&t, T_K, 0, 0, i, 0);
        tensors_put(&t, T_Q, 0, 0, i, i, 2.5);
        tensors_put(&t, T_K, 0, 0, i, i, 2.5);
    }
    hyperattn_params params = small_params();
    params.heavy = HYPERATTN_HEAVY_NONE;
    params.sample_size = sample_sizes[_i];
    verdict v = estimate(&t, params, 250, NULL);
    ck_assert_msg(v.worst_row_z < 5, "%d samples: key %lld is off by %.1f standard errors",
                  sample_sizes[_i], (long long)v.worst_row, v.worst_row_z);
    ck_assert_msg(v.mean_row_z2 < 1.5, "%d samples: mean square of z is %.2f", sample_sizes[_i],
                  v.mean_row_z2);
    tensors_free(&t);
}
END_TEST

/* ---- size of the error --------------------------------------------------------------------- */

/* Root mean square of the relative error of the row sums over seeds. */
static double rms_error(tensors *t, const oracle *o, hyperattn_params params, int seeds)
{
    double squares = 0;
    hyperattn_ctx *ctx = ctx_at(NULL, 1);
    for (int s = 0; s < seeds; s++) {
        params.seed = (uint64_t)s;
        ck_good(tensors_forward(t, ctx, &params));
        for (int64_t row = 0; row < o->rows; row++) {
            double error = exp((double)((const float *)t->lse.data)[row] - o->lse[row]) - 1;
            squares += error * error / (double)o->rows / seeds;
        }
    }
    hyperattn_ctx_destroy(ctx);
    return sqrt(squares);
}

START_TEST(error_falls_with_the_root_of_the_samples)
{
    hyperattn_problem p = problem_of(1, 64, 32);
    p.seqlen_k = 4096;
    tensors t = tensors_new(&p, AT_END);
    tensors_fill(&t, FILL_GAUSS, 3);
    oracle o = oracle_exact(&t);
    for (int sampling = HYPERATTN_SAMPLING_UNIFORM; sampling <= HYPERATTN_SAMPLING_VNORM;
         sampling++)
        for (int heavy = HYPERATTN_HEAVY_SORTLSH; heavy <= HYPERATTN_HEAVY_NONE; heavy++) {
            hyperattn_params params = small_params();
            params.sampling = (hyperattn_sampling)sampling;
            params.heavy = (hyperattn_heavy)heavy;
            params.sample_size = 16;
            double few = rms_error(&t, &o, params, 40);
            params.sample_size = 256;
            double many = rms_error(&t, &o, params, 40);
            ck_assert_msg(few / many > 3.2 && few / many < 5.2,
                          "sampling %d, heavy %d: 16 times the samples took the error from %.3g to "
                          "%.3g", sampling, heavy, few, many);
        }
    oracle_free(&o);
    tensors_free(&t);
}
END_TEST

/* Rows that look for one key each find it by their hash: sortLSH must beat no blocks by far. */
START_TEST(sorted_blocks_find_large_entries)
{
    enum { N = 2048, D = 32 };
    hyperattn_problem p = problem_of(1, N, D);
    p.softmax_scale = 1;
    tensors t = tensors_new(&p, AT_END);
    tensors_fill(&t, FILL_GAUSS, 4);
    for (int64_t i = 0; i < N; i++) /* key i is query i * 3 mod N, nearly */
        for (int64_t c = 0; c < D; c++) {
            double q = tensors_get(&t, T_Q, 0, 0, (i * 3) % N, c);
            tensors_put(&t, T_K, 0, 0, i, c, q + 0.1 * tensors_get(&t, T_K, 0, 0, i, c));
        }
    oracle o = oracle_exact(&t);
    hyperattn_params params = small_params();
    params.block_size = 128;
    ck_good(tensors_run(&t, &params, NULL, 1));
    double with_blocks = oracle_error(&o, &t);
    params.heavy = HYPERATTN_HEAVY_NONE;
    params.sample_size += params.block_size;
    ck_good(tensors_run(&t, &params, NULL, 1));
    double without = oracle_error(&o, &t);
    ck_assert_msg(with_blocks < 0.75 * without, "error %.3f with blocks, %.3f without", with_blocks,
                  without);
    oracle_free(&o);
    tensors_free(&t);
}
END_TEST

/* ---- defects of the authors' code ---------------------------------------------------------- */

/* All scores near -30: a padded key of zeros, with its score of 0, would be most of the sum. */
START_TEST(padding_does_not_leak_into_the_sums)
{
    for (int64_t n = 97; n <= 112; n++)
        for (int causal = 0; causal < 2; causal++) {
            hyperattn_problem p = problem_of(1, n, 7);
            p.softmax_scale = 1;
            p.causal = causal;
            tensors t = tensors_new(&p, AT_END);
            tensors_fill(&t, FILL_GAUSS, 6);
            for (int64_t i = 0; i < n; i++)
                for (int64_t c = 0; c < 7; c++) {
                    double q = 0.1 * tensors_get(&t, T_Q, 0, 0, i, c);
                    double k = 0.1 * tensors_get(&t, T_K, 0, 0, i, c);
                    tensors_put(&t, T_Q, 0, 0, i, c, 2 + q);
                    tensors_put(&t, T_K, 0, 0, i, c, -2.1 + k);
                }
            oracle o = oracle_exact(&t);
            hyperattn_params params = small_params();
            params.block_size = 16;
            params.sample_size = 13;
            ck_good(tensors_run(&t, &params, NULL, 1));
            for (int64_t i = 0; i < n; i++)
                ck_assert_double_eq_tol((double)tensors_lse(&t, 0, 0, i), o.lse[i], 1.5);
            oracle_free(&o);
            tensors_free(&t);
        }
}
END_TEST

/* Late keys score -40, early ones +40: a late row's leaf is summed first and lies 80 below. */
START_TEST(lse_may_rise_far_above_the_first_partial)
{
    enum { N = 256, D = 8 };
    for (int causal = 0; causal < 2; causal++) {
        static const int64_t row_start[] = {0, 1, 2}, key_blocks[] = {1, 1};
        hyperattn_block_mask mask;
        hyperattn_block_mask_init(&mask);
        mask.query_block = mask.key_block = N / 2;
        mask.row_start = row_start;
        mask.key_blocks = key_blocks;
        hyperattn_problem p = problem_of(1, N, D);
        p.softmax_scale = 1;
        p.causal = causal;
        tensors t = tensors_new(&p, AT_END);
        tensors_fill(&t, FILL_GAUSS, 8);
        for (int64_t i = 0; i < N; i++) {
            tensors_set_row(&t, T_Q, 0, 0, i, sqrt(5));
            tensors_set_row(&t, T_K, 0, 0, i, i < N / 2 ? sqrt(5) : -sqrt(5));
        }
        hyperattn_params params = small_params();
        params.block_mask = causal ? NULL : &mask; /* blocks of late keys alone */
        oracle o = oracle_exact(&t);
        ck_good(tensors_run(&t, &params, NULL, 1));
        for (int64_t i = 0; i < N; i++)
            ck_assert_double_eq_tol((double)tensors_lse(&t, 0, 0, i), o.lse[i], 1e-3);
        oracle_free(&o);
        tensors_free(&t);
    }
}
END_TEST

/* ---- the cap ------------------------------------------------------------------------------- */

enum { CAP_N = 60, CAP_BLOCK = 20, CAP_DIM = 4 };

/* Score of the j-th key of a block: between -3 and 5, a few far above the others. */
static double cap_score(int64_t j)
{
    return (double)((j * j) % 17) / 2 - 3;
}

/* Algorithm 2 by definition. All queries are equal, and so are the three blocks, so that tau is the
 * same whichever rows estimate it; all columns are sampled, so that no weight enters. The row sum
 * is b + max(sum_j min(a_j, (b + tau / kappa) / ln n), tau / kappa). */
static double capped_lse(double kappa)
{
    double b = 0, sampled = 0;
    for (int64_t j = 0; j < CAP_BLOCK; j++)
        b += exp(cap_score(j));
    double least = 2 * b / kappa, cap = (b + least) / log(CAP_N);
    for (int64_t j = 0; j < CAP_BLOCK; j++)
        sampled += 2 * fmin(exp(cap_score(j)), cap);
    return log(b + fmax(sampled, least));
}

START_TEST(the_cap_is_that_of_algorithm_2)
{
    static const int64_t row_start[] = {0, 1, 2, 3}, key_blocks[] = {0, 1, 2};
    static const float kappas[] = {0.5f, 1, 1.5f, 3, 1000};
    hyperattn_block_mask mask;
    hyperattn_block_mask_init(&mask);
    mask.query_block = mask.key_block = CAP_BLOCK;
    mask.row_start = row_start;
    mask.key_blocks = key_blocks;
    hyperattn_problem p = problem_of(1, CAP_N, CAP_DIM);
    p.softmax_scale = 1;
    tensors t = tensors_new(&p, AT_END);
    for (int64_t i = 0; i < CAP_N; i++) {
        tensors_put(&t, T_Q, 0, 0, i, 1, 1);
        tensors_put(&t, T_K, 0, 0, i, 1, cap_score(i % CAP_BLOCK));
    }
    for (int s = 0; s < COUNT(kappas); s++) {
        hyperattn_params params = small_params();
        params.block_mask = &mask;
        params.sample_size = CAP_N;
        params.kappa_cap = kappas[s];
        ck_good(tensors_run(&t, &params, NULL, 1));
        for (int64_t i = 0; i < CAP_N; i++)
            ck_assert_double_eq_tol((double)tensors_lse(&t, 0, 0, i),
                                    capped_lse((double)kappas[s]), 1e-5);
    }
    tensors_free(&t);
}
END_TEST

int main(void)
{
    int sizes = COUNT(sample_sizes);
    if (emulated()) {
        sizes = 1;
        puts("reduced: the chances of keys at 1 of 5 sample sizes");
    }
    TCase *topic = topic_begin("estimate");
    tcase_add_loop_test(topic, sampled_sums_are_unbiased, 0, COUNT(settings));
    tcase_add_loop_test(topic, every_key_has_the_same_chance, 0, sizes);
    tcase_add_test(topic, error_falls_with_the_root_of_the_samples);
    tcase_add_test(topic, sorted_blocks_find_large_entries);
    tcase_add_test(topic, padding_does_not_leak_into_the_sums);
    tcase_add_test(topic, lse_may_rise_far_above_the_first_partial);
    tcase_add_test(topic, the_cap_is_that_of_algorithm_2);
    return topic_end();
}
