/* SPDX-License-Identifier: Apache-2.0
 *
 * The float64 oracles among themselves: the pattern of exact attention gives what the definition
 * gives, and the gradients of every pattern are the slopes of its own forward, by central
 * differences in float64 while keys, weights and floors stay as they are.
 */
#include <math.h>

#include "checkmain.h"
#include "grad_oracle.h"
#include "hyper_cases.h"

/* ---- exact patterns -------------------------------------------------------------------------- */

typedef struct exact_case {
    int64_t nq, nk, heads, heads_kv, d, dv;
    int causal;
} exact_case;

static const exact_case exact_cases[] = {
    {9, 9, 1, 1, 5, 5, 0}, {12, 7, 2, 1, 4, 6, 0},  {12, 12, 4, 2, 6, 3, 1},
    {7, 12, 2, 2, 3, 4, 1}, {12, 5, 3, 1, 4, 4, 1}, {1, 1, 1, 1, 1, 1, 1},
};

static tensors exact_tensors(const exact_case *c)
{
    hyperattn_problem p = problem_of(c->heads, c->nq, c->d);
    p.nheads_kv = c->heads_kv;
    p.seqlen_k = c->nk;
    p.head_dim_v = c->dv;
    p.causal = c->causal;
    p.batch = 2;
    tensors t = tensors_new(&p, AT_END);
    tensors_fill(&t, FILL_GAUSS, 5);
    tensors_fill_dout(&t, 5);
    return t;
}

START_TEST(the_exact_pattern_is_exact_attention)
{
    for (int s = 0; s < COUNT(exact_cases); s++) {
        tensors t = exact_tensors(&exact_cases[s]);
        pattern p = pattern_exact(&t);
        hyper_counts counts = {0};
        oracle want = oracle_exact(&t), got = pattern_forward(&t, &p, &counts);
        for (int64_t i = 0; i < t.rows; i++) {
            ck_assert(want.lse[i] == got.lse[i] || fabs(want.lse[i] - got.lse[i]) < 1e-13);
            for (int64_t c = 0; c < want.dv; c++)
                ck_assert_double_eq_tol(want.out[i * want.dv + c], got.out[i * want.dv + c], 1e-13);
        }
        oracle_free(&want);
        oracle_free(&got);
        pattern_free(&p);
        tensors_free(&t);
    }
}
END_TEST

/* ---- finite differences ---------------------------------------------------------------------- */

/* The loss, for dout as it is. */
static double loss_of(const tensors *t, const pattern *p, hyper_counts *counts)
{
    *counts = (hyper_counts){0};
    oracle o = pattern_forward(t, p, counts);
    double loss = 0;
    for (int64_t b = 0; b < t->full.batch; b++)
        for (int64_t h = 0; h < t->full.nheads; h++)
            for (int64_t i = 0; i < tensors_nrows(t, T_Q, b); i++)
                for (int64_t c = 0; c < o.dv; c++)
                    loss += tensors_get(t, T_DOUT, b, h, i, c) *
                            o.out[tensors_row(t, b, h, i) * o.dv + c];
    oracle_free(&o);
    return loss;
}

/* How many elements were compared, and how many lie at a kink: there an entry meets its cap, or a
 * sum its floor, between the two points. */
typedef struct tally {
    int64_t smooth, kinks;
} tally;

/* One element of q, k or v, at a place of its array. */
static const char *check_slope(tensors *t, const pattern *p, const grad_oracle *g, int part,
                               int64_t at, tally *n)
{
    const double step = 0x1p-12;
    float *x = (float *)t->mem[part].data + at, before = *x;
    hyper_counts high_counts, low_counts;
    double high_x = (double)(*x = (float)((double)before + step));
    double high = loss_of(t, p, &high_counts);
    double low_x = (double)(*x = (float)((double)before - step));
    double low = loss_of(t, p, &low_counts);
    *x = before;
    if (high_counts.capped != low_counts.capped || high_counts.floored != low_counts.floored) {
        n->kinks++;
        return NULL;
    }
    n->smooth++;
    double slope = (high - low) / (high_x - low_x), want = g->value[part][at];
    if (fabs(slope - want) <= 3e-6 * (1 + fabs(want)))
        return NULL;
    return failure("d%c at %lld is %.9g, the slope is %.9g", "qkv"[part], (long long)at, want,
                   slope);
}

/* Every stride-th element. */
static const char *check_slopes(tensors *t, const pattern *p, int stride, tally *n)
{
    hyper_counts counts = {0};
    oracle o = pattern_forward(t, p, &counts);
    grad_oracle g = grad_oracle_of(t, p, &o);
    const char *why = NULL;
    for (int part = 0; part < 3; part++)
        for (int64_t at = 0; at < t->elements[part] && !why; at += stride)
            why = check_slope(t, p, &g, part, at, n);
    grad_oracle_free(&g);
    oracle_free(&o);
    return why;
}

START_TEST(exact_gradients_are_slopes)
{
    for (int s = 0; s < COUNT(exact_cases); s++) {
        tensors t = exact_tensors(&exact_cases[s]);
        pattern p = pattern_exact(&t);
        tally n = {0, 0};
        ck_good_at(check_slopes(&t, &p, 1, &n), "case %d", s);
        ck_assert_int_eq(n.kinks, 0);
        pattern_free(&p);
        tensors_free(&t);
    }
}
END_TEST

static const hyper_case sampled[] = {
    {"blocks and samples", 60, 70, 2, 1, 5, 4, .block = 8, .sample = 9},
    {"V-norm", 40, 60, 1, 1, 4, 6, .block = 8, .sample = 9, .sampling = HYPERATTN_SAMPLING_VNORM},
    {"causal", 140, 140, 1, 1, 4, 3, .causal = 1, .block = 16, .sample = 9, .sinks = 2,
     .window = 5},
    {"block mask", 50, 60, 2, 1, 4, 4, .query_block = 16, .key_block = 8, .sample = 5},
    {"kappa 2", 60, 60, 1, 1, 4, 4, .block = 8, .sample = 12, .kappa = 2},
    {"kappa 300", 60, 60, 1, 1, 4, 4, .block = 8, .sample = 12, .kappa = 300},
    {"kappa 20, no block", 50, 50, 1, 1, 4, 4, .sample = 12, .kappa = 20,
     .heavy = HYPERATTN_HEAVY_NONE},
    {"kappa 20, no samples", 50, 50, 1, 1, 4, 4, .block = 8, .sample = -1, .kappa = 20},
    {"kappa 8, causal", 140, 140, 2, 1, 4, 3, .causal = 1, .block = 16, .sample = 16, .sinks = 2,
     .kappa = 8},
    {"kappa 20, V-norm", 60, 60, 1, 1, 4, 4, .block = 8, .sample = 12, .kappa = 20,
     .sampling = HYPERATTN_SAMPLING_VNORM},
};

static void check_sampled(const hyper_case *c, hyperattn_ctx *ctx, hyper_counts *counts, tally *n)
{
    hyper_subject s;
    hyperattn_plan *plan;
    pattern p;
    oracle o;
    hyper_subject_init(&s, c);
    ck_ok(hyperattn_plan_create(&plan, ctx, &s.problem, &s.params));
    tensors t = tensors_new(&s.problem, AT_END);
    ck_good_at(hyper_fill_clearly(&t, plan, &p, &o, counts), "%s", c->name);
    tensors_fill_dout(&t, 3);
    ck_good_at(check_slopes(&t, &p, emulated() ? 17 : 3, n), "%s", c->name);
    ck_good_at(hyper_check_counts(c, counts), "%s", c->name);
    oracle_free(&o);
    pattern_free(&p);
    tensors_free(&t);
    hyperattn_plan_destroy(plan);
}

START_TEST(sampled_gradients_are_slopes)
{
    hyperattn_ctx *ctx = ctx_at("ref", 1);
    int64_t lowered = 0, raised = 0;
    tally n = {0, 0};
    for (int s = 0; s < COUNT(sampled); s++) {
        hyper_counts counts;
        check_sampled(&sampled[s], ctx, &counts, &n);
        lowered += counts.capped > 0;
        raised += counts.floored > 0;
    }
    hyperattn_ctx_destroy(ctx);
    ck_assert_int_ge(lowered, 3);
    ck_assert_int_ge(raised, 3);
    ck_assert_int_gt(n.smooth, 20 * n.kinks);
}
END_TEST

int main(void)
{
    if (emulated())
        puts("reduced: slopes of every 17th element, not of every 3rd");
    TCase *topic = topic_begin("grad_oracle");
    tcase_add_test(topic, the_exact_pattern_is_exact_attention);
    tcase_add_test(topic, exact_gradients_are_slopes);
    tcase_add_test(topic, sampled_gradients_are_slopes);
    return topic_end();
}
