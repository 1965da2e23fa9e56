/* SPDX-License-Identifier: Apache-2.0
 *
 * target_error: what each head gets of the ladder, how far it is from exact attention, and that it
 * is what a plan with the step's params computes.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "checkmain.h"
#include "choose_cases.h"
#include "measure_cases.h"
#include "npy.h"

/* ---- heads ----------------------------------------------------------------------------------- */

/* Whether row i of head h of out, and its lse, have the same bits as in s. */
static int same_row(const tensors *t, const saved *s, int64_t b, int64_t h, int64_t i)
{
    size_t size = dtype_size(t->problem.dtype), row = (size_t)tensors_row(t, b, h, i);
    size_t at = (size_t)tensors_at(t, T_OUT, b, h, i) * size;
    return memcmp((const float *)t->lse.data + row, s->lse + row, sizeof(float)) == 0 &&
           memcmp(t->mem[T_OUT].data + at, (const char *)s->out + at,
                  (size_t)tensors_dim(t, T_OUT) * size) == 0;
}

/* Each head has what a plan with the params of its step computes, bit for bit; t has lost its out
 * afterwards. Returns how many steps were taken by some head. */
static int heads_have_their_steps(tensors *t, const hyperattn_params *params, const choices *c)
{
    hyperattn_ctx *ctx = ctx_at(NULL, 2);
    hyperattn_plan *plan;
    saved s = tensors_save(t);
    int taken = 0;
    ck_ok(hyperattn_plan_create(&plan, ctx, &t->problem, params));
    for (int step = 0; step < hyperattn_plan_steps(plan); step++) {
        const hyperattn_params one = step_of(plan, step);
        int any = 0;
        for (int64_t head = 0; head < t->problem.batch * t->problem.nheads; head++)
            any |= c->head[head].step == step;
        if (!any)
            continue;
        taken++;
        ck_good(tensors_forward(t, ctx, &one));
        for (int64_t head = 0; head < t->problem.batch * t->problem.nheads; head++) {
            int64_t b = head / t->problem.nheads, h = head % t->problem.nheads;
            if (c->head[head].step != step)
                continue;
            ck_assert_int_eq(c->head[head].method, one.method);
            ck_assert_int_eq(c->head[head].budget, one.budget);
            for (int64_t i = 0; i < tensors_nrows(t, T_OUT, b); i++)
                ck_assert_msg(same_row(t, &s, b, h, i), "step %d, head %d, row %d",
                              step, (int)head, (int)i);
        }
    }
    hyperattn_plan_destroy(plan);
    hyperattn_ctx_destroy(ctx);
    saved_free(&s);
    return taken;
}

/* The relative error of a head against out of another run. */
static double head_error(const tensors *t, const saved *exact, int64_t b, int64_t h)
{
    double apart = 0, all = 0;
    for (int64_t i = 0; i < tensors_nrows(t, T_OUT, b); i++)
        for (int64_t e = 0; e < tensors_dim(t, T_OUT); e++) {
            double want = element_get(exact->out, tensors_at(t, T_OUT, b, h, i) + e,
                                      t->problem.dtype);
            double got = tensors_get(t, T_OUT, b, h, i, e);
            apart += (got - want) * (got - want);
            all += want * want;
        }
    return all > 0 ? sqrt(apart / all) : 0;
}

/* All heads are within 1.2 times the target; the report is in itself right. */
static void check_heads(tensors *t, const hyperattn_params *params, choices *c)
{
    hyperattn_params exact = params_with(HYPERATTN_EXACT, 0);
    ck_good(tensors_run(t, &exact, NULL, 2));
    saved s = tensors_save(t);
    ck_good(forward_report(t, params, 2, c));
    for (int64_t head = 0; head < t->problem.batch * t->problem.nheads; head++) {
        const hyperattn_choice *own = &c->head[head];
        double error = head_error(t, &s, head / t->problem.nheads, head % t->problem.nheads);
        ck_assert_uint_eq(own->struct_size, sizeof *own);
        ck_assert_msg(error <= 1.2 * (double)params->target_error, "head %d: error %g, step %d",
                      (int)head, error, own->step);
        ck_assert_int_eq(own->method == HYPERATTN_EXACT, own->rows_checked == 0);
        ck_assert_int_eq(own->method == HYPERATTN_EXACT, isnan(own->rel_error));
        ck_assert(own->tried >= 1 && own->tried <= own->step + 1);
        if (own->rows_checked)
            ck_assert(own->rel_error <= (double)params->target_error && own->rows_checked >= 128);
    }
    saved_free(&s);
}

/* Easy and hard heads, several to a key head, take different steps. */
START_TEST(each_head_has_its_own)
{
    const hyperattn_problem p = causal_problem(6, 2, 6000, 32);
    const hyperattn_params params = params_with(HYPERATTN_AUTO, 0.05f);
    choices c;
    tensors t = tensors_new(&p, AT_END);
    fill_topics(&t, 3);
    check_heads(&t, &params, &c);
    ck_assert_int_ge(heads_have_their_steps(&t, &params, &c), 2);
    tensors_free(&t);
}
END_TEST

START_TEST(threads_change_nothing)
{
    const hyperattn_problem p = causal_problem(6, 2, 6000, 32);
    const hyperattn_params params = params_with(HYPERATTN_AUTO, 0.1f);
    choices first, other;
    tensors t = tensors_new(&p, AT_END);
    fill_topics(&t, 3);
    ck_good(forward_report(&t, &params, 1, &first));
    saved s = tensors_save(&t);
    for (int nthreads = 2; nthreads <= 5; nthreads += 3) {
        ck_good(forward_report(&t, &params, nthreads, &other));
        ck_good(tensors_same_bits(&t, &s, p.seqlen_q));
        ck_assert_mem_eq(&first, &other, sizeof first);
    }
    ck_good(tensors_run(&t, &params, NULL, 2)); /* hyperattn_forward */
    ck_good(tensors_same_bits(&t, &s, p.seqlen_q));
    saved_free(&s);
    tensors_free(&t);
}
END_TEST

/* Long and short sequences, and an empty one: a short one is exact. */
START_TEST(ragged)
{
    static const int64_t cu[] = {0, 5000, 5300, 5300, 9500};
    hyperattn_problem p = causal_problem(3, 1, 5000, 32);
    const hyperattn_params params = params_with(HYPERATTN_AUTO, 0.2f);
    choices c;
    p.batch = 4;
    p.cu_seqlens_q = p.cu_seqlens_k = cu;
    tensors t = tensors_new(&p, AT_END);
    fill_topics(&t, 4);
    check_heads(&t, &params, &c);
    for (int h = 3; h < 9; h++)
        ck_assert_int_eq(c.head[h].method, HYPERATTN_EXACT);
    ck_assert_int_ne(c.head[0].method, HYPERATTN_EXACT);
    ck_assert_int_ne(c.head[9].method, HYPERATTN_EXACT);
    heads_have_their_steps(&t, &params, &c);
    tensors_free(&t);
}
END_TEST

/* Queries of rows [first, end) of a head: so short that all keys weigh nearly the same. */
static void make_easy(tensors *t, int64_t b, int64_t h, int64_t first, int64_t end)
{
    for (int64_t i = first; i < end; i++)
        for (int64_t e = 0; e < tensors_dim(t, T_Q); e++)
            tensors_put(t, T_Q, b, h, i, e, 0.05 * tensors_get(t, T_Q, b, h, i, e));
}

/* The last rows of a long head are tried first: where they alone are hard the head does not begin
 * with the first step, and where they alone are easy it does. */
START_TEST(last_rows_tell)
{
    static const int64_t cu[] = {0, 4500, 4600, 9600};
    hyperattn_problem p = causal_problem(4, 1, 5000, 32);
    const hyperattn_params params = params_with(HYPERATTN_AUTO, _i ? 0.1f : 0.03f);
    choices c;
    p.batch = 3;
    p.causal = _i;
    p.cu_seqlens_q = p.cu_seqlens_k = cu;
    tensors t = tensors_new(&p, AT_END);
    fill_topics(&t, 6);
    for (int64_t b = 0; b < 3; b += 2) {
        int64_t n = cu[b + 1] - cu[b];
        for (int64_t h = 0; h < 4; h++)
            make_easy(&t, b, h, h % 2 ? n - 256 : 0, h % 2 ? n : n - 256);
    }
    check_heads(&t, &params, &c);
    for (int64_t b = 0; b < 3; b += 2)
        for (int64_t h = 0; h < 4; h++) {
            const hyperattn_choice *own = &c.head[b * 4 + h];
            if (h % 2)
                ck_assert_int_eq(own->tried, own->step ? 2 : 1);
            else
                ck_assert_msg(own->step && own->tried == 1,
                              "sequence %d, head %d: step %d after %d tries", (int)b, (int)h,
                              own->step, own->tried);
        }
    tensors_free(&t);
}
END_TEST

/* Not causal, 16-bit, and each method's own ladder. */
START_TEST(other_ladders)
{
    hyperattn_problem p = causal_problem(4, 2, 5000, 32);
    choices c;
    p.causal = _i % 2;
    p.dtype = _i / 2 % 2 ? HYPERATTN_BF16 : HYPERATTN_F32;
    tensors t = tensors_new(&p, AT_END);
    fill_topics(&t, 5);
    for (int method = HYPERATTN_AUTO; method <= HYPERATTN_MULTIPOLE; method++) {
        const hyperattn_params params = params_with((hyperattn_method)method, 0.2f);
        check_heads(&t, &params, &c);
        heads_have_their_steps(&t, &params, &c);
        for (int h = 0; h < p.nheads; h++)
            ck_assert(method == HYPERATTN_AUTO || c.head[h].method == HYPERATTN_EXACT ||
                      (int)c.head[h].method == method);
    }
    tensors_free(&t);
}
END_TEST

/* But for the family whose error is in a few rows alone: no sample of rows tells of those. */
static const family sampled[] = {FAMILY_GAUSS, FAMILY_CLUSTERED, FAMILY_NEEDLES, FAMILY_NORMS,
                                 FAMILY_LOCAL};

START_TEST(families)
{
    const hyperattn_problem p = causal_problem(1, 1, 6000, 64);
    const hyperattn_params params = params_with(HYPERATTN_AUTO, 0.1f);
    choices c;
    tensors t = tensors_new(&p, AT_END);
    family_fill(&t, sampled[_i], 11);
    check_heads(&t, &params, &c);
    tensors_free(&t);
}
END_TEST

static void load(tensors *t, operand which, const char *name)
{
    char path[1024], why[NPY_WHY];
    const char *top = getenv("top_srcdir");
    npy_info info;
    void *data;
    snprintf(path, sizeof path, "%s/bench/data/%s.npy", top ? top : "..", name);
    ck_assert_msg(npy_read(path, &info, &data, why), "%s: %s", path, why);
    ck_assert_uint_eq(info.bytes, t->mem[which].size);
    memcpy(t->mem[which].data, data, info.bytes);
    free(data);
}

/* The captured head of bench/data. */
START_TEST(a_real_head)
{
    static const float targets[] = {0.1f, 0.03f, 0.02f};
    int n = COUNT(targets);
    hyperattn_problem p = causal_problem(1, 1, 8192, 64);
    choices c;
    p.dtype = HYPERATTN_BF16;
    tensors t = tensors_new(&p, AT_END);
    load(&t, T_Q, "q");
    load(&t, T_K, "k");
    load(&t, T_V, "v");
    if (emulated()) {
        n = 1;
        printf("reduced: one target of %d\n", COUNT(targets));
    }
    for (int i = 0; i < n; i++) {
        const hyperattn_params params = params_with(HYPERATTN_AUTO, targets[i]);
        check_heads(&t, &params, &c);
        ck_assert(i > 0 || c.head[0].method != HYPERATTN_EXACT);
    }
    tensors_free(&t);
}
END_TEST

/* AUTO without a target has the bits of EXACT. */
START_TEST(without_target)
{
    const hyperattn_problem p = causal_problem(3, 1, 3000, 32);
    choices c;
    tensors t = tensors_new(&p, AT_END);
    fill_topics(&t, 6);
    const hyperattn_params exact = params_with(HYPERATTN_EXACT, 0);
    const hyperattn_params without = params_with(HYPERATTN_AUTO, 0);
    ck_good(tensors_run(&t, &exact, NULL, 2));
    saved s = tensors_save(&t);
    ck_good(forward_report(&t, &without, 2, &c));
    ck_good(tensors_same_bits(&t, &s, p.seqlen_q));
    for (int h = 0; h < 3; h++) {
        ck_assert_int_eq(c.head[h].method, HYPERATTN_EXACT);
        ck_assert(c.head[h].step == 0 && c.head[h].tried == 1 && isnan(c.head[h].rel_error));
        ck_assert_int_eq(c.head[h].rows_checked, 0);
    }
    saved_free(&s);
    tensors_free(&t);
}
END_TEST

/* A head with a NaN in it is computed exactly, and is NaN where EXACT is; the others choose. */
START_TEST(nan_is_exact)
{
    const hyperattn_problem p = causal_problem(2, 2, 6000, 32);
    const hyperattn_params params = params_with(HYPERATTN_AUTO, 0.2f);
    choices c;
    tensors t = tensors_new(&p, AT_END);
    fill_topics(&t, 7);
    tensors_put(&t, T_V, 0, 1, 10, 3, NAN);
    ck_good(forward_report(&t, &params, 2, &c));
    ck_assert_int_eq(c.head[1].method, HYPERATTN_EXACT);
    ck_assert_int_ne(c.head[0].method, HYPERATTN_EXACT);
    heads_have_their_steps(&t, &params, &c);
    tensors_free(&t);
}
END_TEST

int main(void)
{
    TCase *topic = topic_begin("choose");
    tcase_add_test(topic, each_head_has_its_own);
    tcase_add_test(topic, threads_change_nothing);
    tcase_add_test(topic, ragged);
    tcase_add_loop_test(topic, last_rows_tell, 0, 2);
    tcase_add_loop_test(topic, other_ladders, 0, 4);
    tcase_add_loop_test(topic, families, 0, COUNT(sampled));
    tcase_add_test(topic, a_real_head);
    tcase_add_test(topic, without_target);
    tcase_add_test(topic, nan_is_exact);
    return topic_end();
}
