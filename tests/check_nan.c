/* SPDX-License-Identifier: Apache-2.0
 *
 * A NaN is never lost: not where two partial results are merged, in either order, and not inside
 * one call, where the parts are ranges of keys. And it goes no further than to the rows that see
 * it. Each test runs once per level.
 */
#include <math.h>
#include <string.h>

#include "checkmain.h"
#include "oracle.h"

/* ---- merge ----------------------------------------------------------------------------------- */

enum { ROWS = 5, COLUMNS = 19 };

/* A partial result: lse, and out in every column but the last; what that one has. */
typedef struct part {
    float lse;
    double out, last;
} part;

static void put_part(tensors *t, const part *p)
{
    for (int64_t i = 0; i < ROWS; i++) {
        ((float *)t->lse.data)[i] = p->lse;
        tensors_set_row(t, T_OUT, 0, 0, i, p->out);
        tensors_put(t, T_OUT, 0, 0, i, COLUMNS - 1, p->last);
    }
}

static int is_near(double got, double want)
{
    if (isnan(want))
        return isnan(got);
    return got == want || fabs(got - want) <= 1e-6 * (1 + fabs(want));
}

static const char *check_part(const tensors *t, const part *want)
{
    for (int64_t i = 0; i < ROWS; i++) {
        if (!is_near((double)tensors_lse(t, 0, 0, i), (double)want->lse))
            return failure("lse is %g, not %g", (double)tensors_lse(t, 0, 0, i),
                           (double)want->lse);
        for (int64_t c = 0; c < COLUMNS; c++) {
            double out = tensors_get(t, T_OUT, 0, 0, i, c);
            double is = c == COLUMNS - 1 ? want->last : want->out;
            if (!is_near(out, is))
                return failure("column %lld of out is %g, not %g", (long long)c, out, is);
        }
    }
    return NULL;
}

typedef struct merger {
    hyperattn_ctx *ctx;
    hyperattn_plan *plan;
    tensors a, b;
} merger;

static merger merger_begin(const char *level, hyperattn_dtype dtype)
{
    merger m = {.ctx = ctx_at(level, 1)};
    hyperattn_problem p = problem_of(1, ROWS, COLUMNS);
    p.dtype = dtype;
    ck_assert_ptr_nonnull(m.ctx);
    ck_ok(hyperattn_plan_create(&m.plan, m.ctx, &p, NULL));
    m.a = tensors_new(&p, AT_END);
    m.b = tensors_new(&p, AT_END);
    return m;
}

static void merger_end(merger *m)
{
    tensors_free(&m->a);
    tensors_free(&m->b);
    hyperattn_plan_destroy(m->plan);
    hyperattn_ctx_destroy(m->ctx);
}

static const char *check_merge(merger *m, const part *a, const part *b, const part *want)
{
    put_part(&m->a, a);
    put_part(&m->b, b);
    if (hyperattn_merge(m->plan, m->a.mem[T_OUT].data, (float *)m->a.lse.data,
                        m->b.mem[T_OUT].data, (const float *)m->b.lse.data) != HYPERATTN_OK)
        return hyperattn_last_error();
    return check_part(&m->a, want);
}

#define EMPTY {-INFINITY, 0, 0}

static const struct {
    const char *name;
    part a, b, want;
} merges[] = {
    {"NaN and nothing", {NAN, NAN, NAN}, EMPTY, {NAN, NAN, NAN}},
    {"NaN and a key", {NAN, NAN, NAN}, {2, 3, 3}, {NAN, NAN, NAN}},
    {"NaN and a key far above", {NAN, NAN, NAN}, {3e38f, 3, 3}, {NAN, NAN, NAN}},
    {"NaN and a key far below", {NAN, NAN, NAN}, {-3e38f, 3, 3}, {NAN, NAN, NAN}},
    {"NaN and NaN", {NAN, NAN, NAN}, {NAN, NAN, NAN}, {NAN, NAN, NAN}},
    {"NaN lse alone", {NAN, 1, 1}, {0, 3, 3}, {NAN, NAN, NAN}},
    {"a NaN value", {1, 2, NAN}, {1, 4, 4}, {1.6931472f, 3, NAN}},
    {"a NaN value and nothing", {1, 2, NAN}, EMPTY, {1, 2, NAN}},
    {"a NaN value and a key below", {1e4f, 2, NAN}, {-1e4f, 4, 4}, {1e4f, 2, NAN}},
    {"a NaN value below", {-1e4f, 2, NAN}, {1e4f, 4, 4}, {1e4f, 4, NAN}},
    {"nothing that holds a NaN", {-INFINITY, NAN, NAN}, {1, 4, 4}, {1, 4, 4}},
    {"an infinite value", {1, 2, INFINITY}, {1, 4, 4}, {1.6931472f, 3, INFINITY}},
    {"largest and least", {3.4e38f, 5, 6}, {-3.4e38f, 7, 8}, {3.4e38f, 5, 6}},
    {"nothing and nothing", EMPTY, EMPTY, EMPTY},
};

START_TEST(merge_loses_no_nan)
{
    for (int dtype = HYPERATTN_F32; dtype <= HYPERATTN_F16; dtype++) {
        merger m = merger_begin(levels[_i], (hyperattn_dtype)dtype);
        for (int s = 0; s < COUNT(merges); s++) {
            ck_good_at(check_merge(&m, &merges[s].a, &merges[s].b, &merges[s].want), "%s, %s",
                       dtype_name((hyperattn_dtype)dtype), merges[s].name);
            ck_good_at(check_merge(&m, &merges[s].b, &merges[s].a, &merges[s].want),
                       "%s, %s, the other way round", dtype_name((hyperattn_dtype)dtype),
                       merges[s].name);
        }
        merger_end(&m);
    }
}
END_TEST

/* ---- ranges of keys of one call -------------------------------------------------------------- */

/* What is put where. */
typedef struct bad {
    operand which;
    int64_t row;
    double value;
} bad;

static const char *check_bad(const hyperattn_problem *p, const bad *b, const char *level)
{
    hyperattn_params params;
    hyperattn_params_init(&params);
    params.method = HYPERATTN_EXACT;
    tensors t = tensors_new(p, AT_END);
    tensors_fill(&t, FILL_GAUSS, 6);
    tensors_put(&t, b->which, 0, 0, b->row, 1, b->value);
    const char *why = tensors_run(&t, &params, level, 2);
    if (!why) {
        oracle o = oracle_exact(&t);
        why = oracle_compare(&o, &t, 1);
        oracle_free(&o);
    }
    tensors_free(&t);
    return why;
}

static void check_all_bad(hyperattn_problem p, const bad *all, int n, const char *level)
{
    for (p.causal = 0; p.causal < 2; p.causal++)
        for (int s = 0; s < n; s++)
            ck_good_at(check_bad(&p, &all[s], level), "%s: causal %d, %g in row %lld of %c", level,
                       p.causal, all[s].value, (long long)all[s].row, "qkv"[all[s].which]);
}

/* Few rows, whose keys are shared out in ranges: the bad one lies in the first, in one between, in
 * the last that all rows see, or where only the last rows look. */
START_TEST(few_rows_in_ranges_of_keys)
{
    static const bad all[] = {
        {T_Q, 1, NAN},         {T_K, 3, NAN},         {T_K, 6000, NAN},      {T_K, 9211, NAN},
        {T_K, 9214, NAN},      {T_V, 3, NAN},         {T_V, 6000, NAN},      {T_V, 9211, NAN},
        {T_V, 9214, NAN},      {T_V, 5000, INFINITY}, {T_V, 9213, INFINITY}, {T_K, 9214, INFINITY},
    };
    hyperattn_problem p = problem_of(2, 5, 12);
    p.nheads_kv = 1;
    p.seqlen_k = 9215;
    check_all_bad(p, all, COUNT(all), levels[_i]);
}
END_TEST

/* More rows, whose sums are formed in segments of keys; the last rows see a little more. */
START_TEST(rows_over_segments_of_keys)
{
    static const bad all[] = {
        {T_K, 3, NAN}, {T_V, 16600, NAN}, {T_Q, 100, NAN}, {T_V, 3, NAN}, {T_K, 16600, NAN},
    };
    hyperattn_problem p = problem_of(1, 257, 2);
    p.seqlen_k = 16700;
    p.causal = 1;
    for (int s = 0; s < (emulated() ? 2 : COUNT(all)); s++)
        ck_good_at(check_bad(&p, &all[s], levels[_i]), "%s: NaN in row %lld of %c", levels[_i],
                   (long long)all[s].row, "qkv"[all[s].which]);
}
END_TEST

/* Rows all of whose scores are -inf but for a NaN in one part, which leaves no maximum. */
START_TEST(nan_beside_scores_of_minus_infinity)
{
    enum { NK = 9000 };
    for (int64_t where = 0; where < NK; where += NK - 1) {
        hyperattn_problem p = problem_of(1, 2, 4);
        p.seqlen_k = NK;
        hyperattn_params params;
        hyperattn_params_init(&params);
        params.method = HYPERATTN_EXACT;
        tensors t = tensors_new(&p, AT_END);
        tensors_fill(&t, FILL_GAUSS, 6);
        for (int64_t i = 0; i < 2; i++)
            tensors_set_row(&t, T_Q, 0, 0, i, 1);
        for (int64_t j = 0; j < NK; j++)
            tensors_set_row(&t, T_K, 0, 0, j, j == where ? NAN : -INFINITY);
        ck_good(tensors_run(&t, &params, levels[_i], 1));
        for (int64_t i = 0; i < 2; i++) {
            ck_assert_float_nan(tensors_lse(&t, 0, 0, i));
            ck_assert_double_nan(tensors_get(&t, T_OUT, 0, 0, i, 3));
        }
        tensors_free(&t);
    }
}
END_TEST

int main(void)
{
    if (emulated())
        puts("reduced: 2 of 5 places of a NaN among segments");
    int nlevels = topic_levels();
    TCase *topic = topic_begin("nan");
    tcase_add_loop_test(topic, merge_loses_no_nan, 0, nlevels);
    tcase_add_loop_test(topic, few_rows_in_ranges_of_keys, 0, nlevels);
    tcase_add_loop_test(topic, rows_over_segments_of_keys, 0, nlevels);
    tcase_add_loop_test(topic, nan_beside_scores_of_minus_infinity, 0, nlevels);
    return topic_end();
}
