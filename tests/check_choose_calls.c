/* SPDX-License-Identifier: Apache-2.0
 *
 * hyperattn_forward_report as a call: its entries and its memory; and that hyperattn_backward gives
 * the gradients of what each head took.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "checkmain.h"
#include "choose_cases.h"
#include "refusal.h"

/* ---- the report as a call -------------------------------------------------------------------- */

typedef struct call {
    hyperattn_ctx *ctx;
    hyperattn_plan *plan;
    tensors t;
} call;

static call call_begin(const hyperattn_params *params)
{
    const hyperattn_problem p = causal_problem(2, 1, 64, 8);
    call c = {.ctx = ctx_at(NULL, 1), .t = tensors_new(&p, AT_END)};
    ck_ok(hyperattn_plan_create(&c.plan, c.ctx, &p, params));
    return c;
}

static hyperattn_status call_report(call *c, void *per_head)
{
    tensors *t = &c->t;
    return hyperattn_forward_report(c->plan, t->mem[T_Q].data, t->mem[T_K].data, t->mem[T_V].data,
                                    t->mem[T_OUT].data, NULL, NULL, per_head);
}

static void call_end(call *c)
{
    tensors_free(&c->t);
    hyperattn_plan_destroy(c->plan);
    hyperattn_ctx_destroy(c->ctx);
}

START_TEST(reports_that_are_refused)
{
    const hyperattn_params params = params_with(HYPERATTN_HYPER, 0);
    _Alignas(8) unsigned char bytes[4 * sizeof(hyperattn_choice)];
    hyperattn_choice choice[2];
    call c = call_begin(&params);
    ck_assert_int_eq(call_report(&c, NULL), HYPERATTN_EINVAL);
    ck_assert_ptr_nonnull(strstr(hyperattn_last_error(), "per_head"));
    ck_assert_int_eq(call_report(&c, bytes + 4), HYPERATTN_EINVAL);
    ck_assert_ptr_nonnull(strstr(hyperattn_last_error(), "aligned"));
    choice[0].struct_size = sizeof choice[0] - 1;
    ck_assert_int_eq(call_report(&c, choice), HYPERATTN_EINVAL);
    choice[0].struct_size = sizeof choice[0] + 8;
    ck_assert_int_eq(call_report(&c, choice), HYPERATTN_EVERSION);
    hyperattn_choice_init(&choice[0]);
    memcpy(c.t.mem[T_OUT].data, &choice[0], sizeof choice[0]);
    ck_assert_int_eq(call_report(&c, c.t.mem[T_OUT].data), HYPERATTN_EINVAL);
    ck_assert_ptr_nonnull(strstr(hyperattn_last_error(), "overlaps"));
    ck_assert_int_eq(hyperattn_forward_report(NULL, NULL, NULL, NULL, NULL, NULL, NULL, choice),
                     HYPERATTN_EINVAL);
    hyperattn_choice_init(NULL);
    call_end(&c);
}
END_TEST

/* A caller of an earlier version has shorter entries, one after the other. */
START_TEST(shorter_entries)
{
    const hyperattn_params params = params_with(HYPERATTN_HYPER, 0);
    const size_t size = offsetof(hyperattn_choice, rel_error);
    _Alignas(8) unsigned char bytes[2 * sizeof(hyperattn_choice)];
    call c = call_begin(&params);
    memset(bytes, 0x55, sizeof bytes);
    memcpy(bytes, &size, sizeof size);
    ck_ok(call_report(&c, bytes));
    for (int h = 0; h < 2; h++) {
        hyperattn_choice choice;
        memcpy(&choice, bytes + (size_t)h * size, size);
        ck_assert_uint_eq(choice.struct_size, size);
        ck_assert_int_eq(choice.method, HYPERATTN_HYPER);
        ck_assert_int_eq(choice.tried, 1);
    }
    for (size_t i = 2 * size; i < sizeof bytes; i++)
        ck_assert_uint_eq(bytes[i], 0x55);
    call_end(&c);
}
END_TEST

/* With a workspace a call takes nothing from the context; it tells no more than it needs. */
START_TEST(calls_allocate_nothing)
{
    const hyperattn_params params = params_with(HYPERATTN_HYPER, 0.5f);
    const hyperattn_problem p = causal_problem(2, 1, 4200, 16);
    hyperattn_choice choice[2];
    hyperattn_plan *plan;
    fixture f;
    ck_good(fixture_begin(&f));
    tensors t = tensors_new(&p, AT_END);
    tensors_fill(&t, FILL_CLUSTERED, 2);
    tensors_fill_dout(&t, 3);
    ck_ok(hyperattn_plan_create(&plan, f.ctx, &p, &params));
    ck_assert_int_gt(hyperattn_plan_steps(plan), 1);
    guarded ws = guarded_workspace(hyperattn_plan_workspace(plan, 0));
    guarded backward = guarded_workspace(hyperattn_plan_workspace(plan, 1));
    int64_t calls = f.memory.calls;
    hyperattn_choice_init(&choice[0]);
    ck_ok(hyperattn_forward_report(plan, t.mem[T_Q].data, t.mem[T_K].data, t.mem[T_V].data,
                                   t.mem[T_OUT].data, (float *)t.lse.data, ws.data, choice));
    ck_ok(hyperattn_backward(plan, t.mem[T_Q].data, t.mem[T_K].data, t.mem[T_V].data,
                             t.mem[T_OUT].data, (float *)t.lse.data, t.mem[T_DOUT].data,
                             t.mem[T_DQ].data, t.mem[T_DK].data, t.mem[T_DV].data,
                             backward.data));
    ck_assert_int_eq(f.memory.calls, calls);
    ck_good(guarded_check(&ws));
    ck_good(guarded_check(&backward));
    guarded_free(&ws);
    guarded_free(&backward);
    hyperattn_plan_destroy(plan);
    tensors_free(&t);
    ck_good(fixture_end(&f));
}
END_TEST

/* ---- backward -------------------------------------------------------------------------------- */

static void check_rows(const tensors *t, operand which, const void *got, int64_t h)
{
    for (int64_t i = 0; i < t->problem.seqlen_q; i++)
        for (int64_t e = 0; e < tensors_dim(t, which); e++) {
            double want = tensors_get(t, which, 0, h, i, e);
            ck_assert_double_eq_tol(element_get(got, tensors_at(t, which, 0, h, i) + e,
                                                HYPERATTN_F32), want, 1e-5 * (1 + fabs(want)));
        }
}

/* dq of each head is that of its step's plan; dk and dv are the sums over the query heads of what
 * their steps' plans give for the head alone. To rounding: sums are cut by how many heads share a
 * key head. */
static void check_gradients(tensors *t, const hyperattn_params *params, const choices *c)
{
    hyperattn_ctx *ctx = ctx_at(NULL, 2);
    hyperattn_plan *plan;
    int64_t heads = t->problem.nheads, group = heads / t->problem.nheads_kv;
    saved s = tensors_save(t);
    double *sum[2];
    for (int part = 0; part < 2; part++)
        sum[part] = calloc((size_t)t->elements[T_DK + part], sizeof *sum[part]);
    ck_ok(hyperattn_plan_create(&plan, ctx, &t->problem, params));
    guarded dout = guarded_new(t->mem[T_DOUT].size, AT_END);
    memcpy(dout.data, t->mem[T_DOUT].data, dout.size);
    for (int64_t h = 0; h < heads; h++) {
        const hyperattn_params one = step_of(plan, c->head[h].step);
        memcpy(t->mem[T_DOUT].data, dout.data, dout.size);
        for (int64_t other = 0; other < heads; other++) /* which then give nothing */
            for (int64_t i = 0; other != h && i < t->problem.seqlen_q; i++)
                tensors_set_row(t, T_DOUT, 0, other, i, 0);
        ck_good(tensors_backward(t, ctx, &one));
        check_rows(t, T_DQ, s.gradient[0], h);
        for (int part = 0; part < 2; part++)
            for (int64_t j = 0; j < t->problem.seqlen_q; j++)
                for (int64_t e = 0; e < tensors_dim(t, T_DK + part); e++)
                    sum[part][tensors_at(t, T_DK + part, 0, h / group, j) + e] +=
                        tensors_get(t, T_DK + part, 0, h / group, j, e);
    }
    for (int part = 0; part < 2; part++) {
        for (int64_t x = 0; x < t->elements[T_DK + part]; x++)
            ck_assert_double_eq_tol(element_get(s.gradient[1 + part], x, HYPERATTN_F32),
                                    sum[part][x], 1e-5 * (1 + fabs(sum[part][x])));
        free(sum[part]);
    }
    guarded_free(&dout);
    hyperattn_plan_destroy(plan);
    hyperattn_ctx_destroy(ctx);
    saved_free(&s);
}

START_TEST(gradients_are_of_what_was_taken)
{
    const hyperattn_method method = _i / 2 ? HYPERATTN_MULTIPOLE : HYPERATTN_HYPER;
    const int64_t n = method == HYPERATTN_HYPER ? 4100 : 6200; /* from where it pays */
    const hyperattn_problem p = causal_problem(4, _i % 2 ? 2 : 4, n, 16);
    const hyperattn_params params = params_with(method, 0.35f);
    choices c;
    tensors t = tensors_new(&p, AT_END);
    fill_topics(&t, 8);
    tensors_fill_dout(&t, 9);
    ck_good(forward_report(&t, &params, 2, &c));
    int approximate = 0;
    for (int h = 0; h < 4; h++)
        approximate += c.head[h].method == method;
    ck_assert_int_ge(approximate, 1);
    saved forward = tensors_save(&t);
    ck_good(tensors_run_backward(&t, &params, NULL, 1));
    saved first = tensors_save(&t);
    ck_good(tensors_run_backward(&t, &params, NULL, 3));
    ck_good(tensors_same_gradients(&t, &first, p.seqlen_q, p.seqlen_q));
    ck_good(tensors_same_bits(&t, &forward, p.seqlen_q));
    check_gradients(&t, &params, &c);
    saved_free(&first);
    saved_free(&forward);
    tensors_free(&t);
}
END_TEST

int main(void)
{
    TCase *topic = topic_begin("choose_calls");
    tcase_add_test(topic, calls_allocate_nothing);
    tcase_add_test(topic, reports_that_are_refused);
    tcase_add_test(topic, shorter_entries);
    tcase_add_loop_test(topic, gradients_are_of_what_was_taken, 0, 4);
    return topic_end();
}
