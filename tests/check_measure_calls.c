/* SPDX-License-Identifier: Apache-2.0
 *
 * hyperattn_measure as a call: any plan's output, seeds, NaN, what it refuses, what it writes, and
 * callers of an earlier version.
 */
#include <math.h>
#include <string.h>

#include "checkmain.h"
#include "tensors.h"

enum { MOST_HEADS = 2 };

/* ---- one measurement ------------------------------------------------------------------------- */

typedef struct measured {
    hyperattn_report total, head[MOST_HEADS];
} measured;

static hyperattn_params hyper_params(void)
{
    hyperattn_params params;
    hyperattn_params_init(&params);
    params.method = HYPERATTN_HYPER;
    params.block_size = params.sample_size = 16;
    params.min_seq_len = 64;
    params.num_sinks = 2;
    params.seed = 77;
    return params;
}

static hyperattn_status call(const hyperattn_plan *plan, const tensors *t, int64_t rows,
                             measured *m)
{
    memset(m, 0x55, sizeof *m);
    hyperattn_report_init(&m->total);
    hyperattn_report_init(&m->head[0]);
    return hyperattn_measure(plan, t->mem[T_Q].data, t->mem[T_K].data, t->mem[T_V].data,
                             t->mem[T_OUT].data, rows, &m->total, m->head);
}

/* Measures t's out under a ceiling. */
static const char *measure(const tensors *t, const hyperattn_params *params, const char *level,
                           int nthreads, int64_t rows, measured *m)
{
    hyperattn_ctx *ctx = ctx_at(level, nthreads);
    hyperattn_plan *plan = NULL;
    hyperattn_status status = HYPERATTN_EBACKEND;
    if (ctx && !(status = hyperattn_plan_create(&plan, ctx, &t->problem, params)))
        status = call(plan, t, rows, m);
    const char *why = status ? failure("status %d, %s", status, hyperattn_last_error()) : NULL;
    hyperattn_plan_destroy(plan);
    hyperattn_ctx_destroy(ctx);
    return why;
}

/* ---- what a plan's method has to do with it -------------------------------------------------- */

/* An exact plan measures any out; of its own, the error is rounding. */
START_TEST(exact_plan)
{
    hyperattn_problem p = problem_of(2, 300, 16);
    hyperattn_params params;
    measured m;
    hyperattn_params_init(&params);
    tensors t = tensors_new(&p, AT_END);
    tensors_fill(&t, FILL_CLUSTERED, 8);
    ck_good(tensors_run(&t, &params, NULL, 1));
    ck_good(measure(&t, &params, NULL, 1, 60, &m));
    ck_assert_double_lt(m.total.rel_error, 1e-6);
    for (int64_t i = 0; i < t.elements[T_OUT]; i++)
        ((float *)t.mem[T_OUT].data)[i] *= 1.25f;
    ck_good(measure(&t, &params, NULL, 1, 60, &m));
    ck_assert_double_eq_tol(m.total.rel_error, 0.25, 1e-5);
    tensors_free(&t);
}
END_TEST

/* Another seed draws other rows. */
START_TEST(seeds)
{
    hyperattn_problem p = problem_of(1, 300, 16);
    hyperattn_params params = hyper_params();
    measured first, again, other;
    tensors t = tensors_new(&p, AT_END);
    tensors_fill(&t, FILL_GAUSS, 9);
    ck_good(tensors_run(&t, &params, NULL, 1));
    ck_good(measure(&t, &params, NULL, 1, 60, &first));
    ck_good(measure(&t, &params, NULL, 1, 60, &again));
    params.seed++;
    ck_good(measure(&t, &params, NULL, 1, 60, &other));
    ck_assert_mem_eq(&first, &again, sizeof first);
    ck_assert_double_ne(first.total.rel_error, other.total.rel_error);
    tensors_free(&t);
}
END_TEST

/* ---- NaN ------------------------------------------------------------------------------------- */

static int all_nan(const hyperattn_report *r)
{
    return isnan(r->rel_error) && isnan(r->rel_error_low) && isnan(r->rel_error_high) &&
           isnan(r->max_row_error);
}

/* Anywhere in out, in a row that is checked or not. */
START_TEST(nan_in_out)
{
    static const double bad[] = {NAN, INFINITY, -INFINITY};
    hyperattn_problem p = problem_of(2, 300, 16);
    const hyperattn_params params = hyper_params();
    measured m;
    tensors t = tensors_new(&p, AT_END);
    tensors_fill(&t, FILL_GAUSS, 10);
    for (int i = 0; i < 3 * COUNT(bad); i++) {
        ck_good(tensors_run(&t, &params, NULL, 1));
        tensors_put(&t, T_OUT, 0, 1, 37 * i, i, bad[i % COUNT(bad)]);
        ck_good(measure(&t, &params, NULL, 2, 20, &m));
        ck_assert(all_nan(&m.head[1]) && all_nan(&m.total));
        ck_assert(isfinite(m.head[0].rel_error) && isfinite(m.head[1].alpha));
    }
    tensors_free(&t);
}
END_TEST

/* A key that is no number reaches every row, a value that is none too; nothing crashes. */
START_TEST(nan_in_inputs)
{
    hyperattn_problem p = problem_of(1, 300, 16);
    const hyperattn_params params = hyper_params();
    for (int which = T_Q; which <= T_V; which++) {
        measured m;
        tensors t = tensors_new(&p, AT_END);
        tensors_fill(&t, FILL_GAUSS, 11);
        ck_good(tensors_run(&t, &params, NULL, 1));
        tensors_put(&t, (operand)which, 0, 0, 100, 3, NAN);
        ck_good(measure(&t, &params, NULL, 1, 300, &m));
        ck_assert(all_nan(&m.total));
        ck_assert_int_eq(isnan(m.total.alpha) != 0, which != T_V);
        ck_assert_int_eq(isnan(m.total.kappa) != 0, which != T_V);
        tensors_free(&t);
    }
}
END_TEST

/* ---- refusals -------------------------------------------------------------------------------- */

typedef struct refused {
    hyperattn_ctx *ctx;
    hyperattn_plan *plan;
    tensors t;
    allocs memory;
    int64_t live;
} refused;

static void refused_begin(refused *r)
{
    hyperattn_problem p = problem_of(2, 100, 8);
    const hyperattn_params params = hyper_params();
    r->memory = (allocs){0};
    hyperattn_ctx_params ctx = allocs_params(&r->memory);
    ctx.nthreads = 2;
    ck_ok(hyperattn_ctx_create(&r->ctx, &ctx));
    ck_ok(hyperattn_plan_create(&r->plan, r->ctx, &p, &params));
    r->t = tensors_new(&p, AT_END);
    tensors_fill(&r->t, FILL_GAUSS, 12);
    ck_good(tensors_forward(&r->t, r->ctx, &params));
    r->live = r->memory.live;
}

static void refused_end(refused *r)
{
    ck_assert_int_eq(r->memory.live, r->live);
    tensors_free(&r->t);
    hyperattn_plan_destroy(r->plan);
    hyperattn_ctx_destroy(r->ctx);
    ck_assert_int_eq(r->memory.live, 0);
}

#define REFUSES(want, text, ...)                                                                   \
    do {                                                                                           \
        ck_assert_int_eq(hyperattn_measure(__VA_ARGS__), want);                                    \
        ck_assert_msg(strstr(hyperattn_last_error(), text), "%s", hyperattn_last_error());         \
    } while (0)

START_TEST(bad_arguments)
{
    refused r;
    measured m;
    refused_begin(&r);
    unsigned char *q = r.t.mem[T_Q].data, *k = r.t.mem[T_K].data, *v = r.t.mem[T_V].data;
    unsigned char *out = r.t.mem[T_OUT].data;
    hyperattn_report *total = &m.total, *head = m.head;
    hyperattn_report_init(total);
    hyperattn_report_init(head);
    const measured before = m;
    REFUSES(HYPERATTN_EINVAL, "plan is NULL", NULL, q, k, v, out, 9, total, head);
    REFUSES(HYPERATTN_EINVAL, "q is NULL", r.plan, NULL, k, v, out, 9, total, head);
    REFUSES(HYPERATTN_EINVAL, "k is NULL", r.plan, q, NULL, v, out, 9, total, head);
    REFUSES(HYPERATTN_EINVAL, "v is NULL", r.plan, q, k, NULL, out, 9, total, head);
    REFUSES(HYPERATTN_EINVAL, "out is NULL", r.plan, q, k, v, NULL, 9, total, head);
    REFUSES(HYPERATTN_EINVAL, "total is NULL", r.plan, q, k, v, out, 9, NULL, head);
    REFUSES(HYPERATTN_EINVAL, "rows is 0", r.plan, q, k, v, out, 0, total, head);
    REFUSES(HYPERATTN_EINVAL, "rows is -5", r.plan, q, k, v, out, -5, total, head);
    REFUSES(HYPERATTN_EINVAL, "k is", r.plan, q, k + 1, v, out, 9, total, head);
    REFUSES(HYPERATTN_EINVAL, "total is", r.plan, q, k, v, out, 9,
            (hyperattn_report *)((char *)total + 4), head);
    REFUSES(HYPERATTN_EINVAL, "per_head at", r.plan, q, k, v, out, 9, total, total);
    total->struct_size = sizeof *total + 8;
    REFUSES(HYPERATTN_EVERSION, "hyperattn_report.struct_size", r.plan, q, k, v, out, 9, total,
            head);
    total->struct_size = 13;
    REFUSES(HYPERATTN_EINVAL, "hyperattn_report.struct_size is 13", r.plan, q, k, v, out, 9, total,
            head);
    total->struct_size = sizeof *total;
    head->struct_size = 0;
    REFUSES(HYPERATTN_EINVAL, "hyperattn_report.struct_size is 0", r.plan, q, k, v, out, 9, total,
            head);
    head->struct_size = sizeof *head;
    ck_assert_mem_eq(&m, &before, sizeof m);
    refused_end(&r);
}
END_TEST

/* Each of its allocations fails in turn; the reports are as they were. */
START_TEST(failing_allocator)
{
    refused r;
    measured m, before;
    int failed = 0;
    refused_begin(&r);
    for (int64_t n = 1;; n++) {
        r.memory.fail_at = r.memory.calls + n;
        hyperattn_status status = call(r.plan, &r.t, 20, &m);
        if (!status)
            break;
        memset(&before, 0x55, sizeof before);
        hyperattn_report_init(&before.total);
        hyperattn_report_init(&before.head[0]);
        ck_assert_int_eq(status, HYPERATTN_ENOMEM);
        ck_assert_mem_eq(&m, &before, sizeof m);
        ck_assert_int_eq(r.memory.live, r.live);
        failed++;
    }
    r.memory.fail_at = 0;
    ck_assert_int_eq(failed, 2);
    refused_end(&r);
}
END_TEST

/* ---- an older caller ------------------------------------------------------------------------- */

/* Reports that end at any field: that much is written, entry after entry, and nothing behind. */
START_TEST(smaller_reports)
{
    static const size_t sizes[] = {
        offsetof(hyperattn_report, rel_error_low), offsetof(hyperattn_report, rel_error_high),
        offsetof(hyperattn_report, max_row_error), offsetof(hyperattn_report, alpha),
        offsetof(hyperattn_report, kappa),         offsetof(hyperattn_report, rows_checked),
        offsetof(hyperattn_report, rel_error)};
    refused r;
    measured whole;
    refused_begin(&r);
    ck_ok(call(r.plan, &r.t, 20, &whole));
    for (int s = 0; s < COUNT(sizes); s++) {
        size_t size = sizes[s];
        double small[2][2 * sizeof(hyperattn_report) / sizeof(double) + 1];
        memset(small, 0x33, sizeof small);
        memcpy(small[0], &size, sizeof size);
        memcpy(small[1], &size, sizeof size);
        ck_ok(hyperattn_measure(r.plan, r.t.mem[T_Q].data, r.t.mem[T_K].data, r.t.mem[T_V].data,
                                r.t.mem[T_OUT].data, 20, (hyperattn_report *)small[0],
                                (hyperattn_report *)small[1]));
        const hyperattn_report *from[] = {&whole.total, &whole.head[0], &whole.head[1]};
        const char *to[] = {(char *)small[0], (char *)small[1], (char *)small[1] + size};
        for (int i = 0; i < 3; i++) {
            ck_assert_mem_eq(to[i], &size, sizeof size);
            ck_assert_mem_eq(to[i] + sizeof size, (const char *)from[i] + sizeof size,
                             size - sizeof size);
        }
        ck_assert_int_eq(to[0][size], 0x33);
        ck_assert_int_eq(to[2][size], 0x33);
    }
    refused_end(&r);
}
END_TEST

/* total alone gives the same as with per_head. */
START_TEST(without_per_head)
{
    refused r;
    measured whole;
    hyperattn_report total;
    refused_begin(&r);
    ck_ok(call(r.plan, &r.t, 20, &whole));
    hyperattn_report_init(&total);
    ck_ok(hyperattn_measure(r.plan, r.t.mem[T_Q].data, r.t.mem[T_K].data, r.t.mem[T_V].data,
                            r.t.mem[T_OUT].data, 20, &total, NULL));
    ck_assert_mem_eq(&total, &whole.total, sizeof total);
    hyperattn_report_init(NULL);
    refused_end(&r);
}
END_TEST

int main(void)
{
    TCase *topic = topic_begin("measure calls");
    tcase_add_test(topic, exact_plan);
    tcase_add_test(topic, seeds);
    tcase_add_test(topic, nan_in_out);
    tcase_add_test(topic, nan_in_inputs);
    tcase_add_test(topic, bad_arguments);
    tcase_add_test(topic, failing_allocator);
    tcase_add_test(topic, smaller_reports);
    tcase_add_test(topic, without_per_head);
    return topic_end();
}
