/* SPDX-License-Identifier: Apache-2.0
 *
 * hyperattn_measure: its figures against float64 on the rows that it draws and on all rows, for
 * every level, type, layout and group; the same bits for any number of threads.
 */
#include <math.h>
#include <string.h>

#include "algo/measure.h"
#include "checkmain.h"
#include "oracle.h"

enum { MOST_HEADS = 16, MOST_ROWS = 600 };

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

/* ---- against float64 ------------------------------------------------------------------------- */

typedef struct shape {
    int64_t batch, nq, nk, heads, heads_kv, d, dv;
    int causal;
    hyperattn_dtype dtype;
    int64_t rows;
} shape;

static const shape shapes[] = {
    {1, 300, 300, 1, 1, 16, 16, 0, HYPERATTN_F32, 1000},
    {1, 300, 300, 1, 1, 16, 16, 1, HYPERATTN_F32, 300},
    {1, 301, 301, 2, 1, 17, 9, 1, HYPERATTN_F32, 40},
    {2, 290, 310, 6, 2, 24, 40, 0, HYPERATTN_F32, 37},
    {1, 150, 420, 4, 1, 16, 16, 1, HYPERATTN_BF16, 64},
    {1, 420, 150, 2, 2, 16, 16, 1, HYPERATTN_F32, 420},
    {1, 420, 150, 3, 1, 16, 16, 1, HYPERATTN_F16, 50},
    {2, 200, 200, 2, 1, 33, 16, 0, HYPERATTN_BF16, 200},
    {1, 70, 3000, 8, 1, 8, 12, 1, HYPERATTN_F32, 30},
    {1, 600, 2500, 1, 1, 64, 64, 0, HYPERATTN_F16, 600},
    {1, 1, 90, 2, 1, 8, 8, 0, HYPERATTN_F32, 5},
};

static hyperattn_problem shape_problem(const shape *s)
{
    hyperattn_problem p = problem_of(s->heads, s->nq, s->d);
    p.batch = s->batch;
    p.nheads_kv = s->heads_kv;
    p.seqlen_k = s->nk;
    p.head_dim_v = s->dv;
    p.causal = s->causal;
    p.dtype = s->dtype;
    return p;
}

/* What the report of one head must say. */
typedef struct expected {
    double diff, norm, worst; /* sums over all rows, as the drawn ones stand for them */
    int64_t rows;
    hardness hard;
    double rel_error, max_row_error;
} expected;

static expected expect(const tensors *t, const oracle *o, const hyperattn_params *params, int64_t b,
                       int64_t h, int64_t rows)
{
    uint32_t row[MOST_ROWS];
    int64_t weight[MOST_ROWS], nq = tensors_nrows(t, T_Q, b), n = rows < nq ? rows : nq;
    expected e = {.rows = n};
    double plain = 0;
    ha_draw_checked_rows(row, params->seed, (uint32_t)(b * t->full.nheads + h), nq, n);
    for (int64_t i = 0; i < n; i++) {
        double diff = 0, norm = 0;
        weight[i] = ha_strip_rows(nq, n, i);
        for (int64_t c = 0; c < o->dv; c++) {
            double want = o->out[tensors_row(t, b, h, row[i]) * o->dv + c];
            double got = tensors_get(t, T_OUT, b, h, row[i], c);
            diff += (got - want) * (got - want);
            norm += want * want;
        }
        e.diff += (double)weight[i] * diff;
        e.norm += (double)weight[i] * norm;
        e.worst = fmax(e.worst, diff);
        plain += norm;
    }
    e.rel_error = e.diff == 0 ? 0 : sqrt(e.diff / e.norm);
    e.max_row_error = e.worst == 0 ? 0 : sqrt(e.worst / (plain / (double)n));
    e.hard = oracle_hardness(t, b, h, row, weight, n, 1.0 / params->block_size);
    return e;
}

static int near(double got, double want, double relative)
{
    return fabs(got - want) <= relative * fabs(want) + 2e-6;
}

static const char *check_report(const hyperattn_report *r, const expected *e, int all)
{
    if (!near(r->rel_error, e->rel_error, 2e-4))
        return failure("rel_error is %.9g, not %.9g", r->rel_error, e->rel_error);
    if (!near(r->max_row_error, e->max_row_error, 2e-4))
        return failure("max_row_error is %.9g, not %.9g", r->max_row_error, e->max_row_error);
    if (!near(r->alpha, e->hard.alpha, 1e-3))
        return failure("alpha is %.9g, not %.9g", r->alpha, e->hard.alpha);
    if (!near(r->kappa, e->hard.kappa, 1e-3))
        return failure("kappa is %.9g, not %.9g", r->kappa, e->hard.kappa);
    if (r->rows_checked != e->rows)
        return failure("rows_checked is %lld, not %lld", (long long)r->rows_checked,
                       (long long)e->rows);
    if (!(r->rel_error_low <= r->rel_error && r->rel_error <= r->rel_error_high))
        return failure("the interval %g..%g does not hold %g", r->rel_error_low,
                       r->rel_error_high, r->rel_error);
    if (all != (r->rel_error_low == r->rel_error && r->rel_error_high == r->rel_error))
        return failure("the interval is %g..%g", r->rel_error_low, r->rel_error_high);
    return r->struct_size == sizeof *r ? NULL : failure("struct_size is %zu", r->struct_size);
}

/* Every head and the total. */
static const char *check_measured(const tensors *t, const oracle *o, const hyperattn_params *params,
                                  int64_t rows, const measured *m)
{
    expected total = {.hard = {0, 1}};
    int all_rows = 1;
    for (int64_t b = 0; b < t->full.batch; b++)
        for (int64_t h = 0; h < t->full.nheads; h++) {
            const expected e = expect(t, o, params, b, h, rows);
            int all = rows >= tensors_nrows(t, T_Q, b);
            const char *why = check_report(&m->head[b * t->full.nheads + h], &e, all);
            if (why)
                return failure("sequence %lld, head %lld: %s", (long long)b, (long long)h, why);
            total.diff += e.diff;
            total.norm += e.norm;
            total.rows += e.rows;
            total.max_row_error = fmax(total.max_row_error, e.max_row_error);
            total.hard.alpha = fmax(total.hard.alpha, e.hard.alpha);
            total.hard.kappa = fmax(total.hard.kappa, e.hard.kappa);
            all_rows = all_rows && all;
        }
    total.rel_error = total.diff == 0 ? 0 : sqrt(total.diff / total.norm);
    return check_report(&m->total, &total, all_rows);
}

static const char *check_levels(tensors *t, const hyperattn_params *params, int64_t rows)
{
    const char *names[8], *why = NULL;
    int n = levels_here(names, COUNT(names));
    static const int threads[] = {2, 5};
    oracle o = oracle_exact(t);
    for (int level = 0; level < n && !why; level++) {
        measured first, other;
        why = tensors_run(t, params, names[level], 1);
        why = why ? why : measure(t, params, names[level], 1, rows, &first);
        why = why ? why : check_measured(t, &o, params, rows, &first);
        for (int s = 0; s < COUNT(threads) && !why; s++) {
            why = measure(t, params, names[level], threads[s], rows, &other);
            if (!why && memcmp(&first, &other, sizeof first) != 0)
                why = failure("%d threads give other bits", threads[s]);
        }
        why = why ? failure("%s: %s", names[level], why) : NULL;
    }
    oracle_free(&o);
    return why;
}

START_TEST(every_shape)
{
    const shape *s = &shapes[_i];
    const hyperattn_problem p = shape_problem(s);
    const hyperattn_params params = hyper_params();
    tensors t = tensors_new(&p, AT_END);
    tensors_fill(&t, _i % 2 ? FILL_CLUSTERED : FILL_GAUSS, 5);
    ck_good_at(check_levels(&t, &params, s->rows), "shape %d", _i);
    tensors_free(&t);
}
END_TEST

/* An empty sequence, one of no keys, one shorter than the rows that are asked for. */
START_TEST(ragged)
{
    const int64_t cu_q[] = {0, 100, 100, 117, 400}, cu_k[] = {0, 150, 170, 170, 500};
    for (int causal = 0; causal < 2; causal++) {
        hyperattn_problem p = problem_of(2, 283, 16);
        const hyperattn_params params = hyper_params();
        p.batch = 4;
        p.nheads_kv = 1;
        p.seqlen_k = 330;
        p.causal = causal;
        p.cu_seqlens_q = cu_q;
        p.cu_seqlens_k = cu_k;
        tensors t = tensors_new(&p, AT_END);
        tensors_fill(&t, FILL_GAUSS, 6);
        ck_good_at(check_levels(&t, &params, 30), "causal %d", causal);
        tensors_free(&t);
    }
}
END_TEST

/* Rows with gaps, heads that alternate. */
START_TEST(strides)
{
    enum { N = 200, H = 4, D = 12 };
    hyperattn_problem p = problem_of(H, N, D);
    const hyperattn_params params = hyper_params();
    p.nheads_kv = 2;
    const int64_t wide[3] = {N * H * (D + 5), D + 5, H * (D + 5)};
    memcpy(p.q_stride, wide, sizeof wide);
    memcpy(p.k_stride, wide, sizeof wide);
    memcpy(p.v_stride, wide, sizeof wide);
    memcpy(p.out_stride, wide, sizeof wide);
    tensors t = tensors_new(&p, OFF_BY_4);
    tensors_fill(&t, FILL_CLUSTERED, 7);
    ck_good(check_levels(&t, &params, 50));
    tensors_free(&t);
}
END_TEST

int main(void)
{
    TCase *topic = topic_begin("measure");
    tcase_add_loop_test(topic, every_shape, 0, COUNT(shapes));
    tcase_add_test(topic, ragged);
    tcase_add_test(topic, strides);
    return topic_end();
}
