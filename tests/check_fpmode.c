/* SPDX-License-Identifier: Apache-2.0
 *
 * The caller's floating-point mode: with subnormal inputs, weights near 2^-126 and any rounding,
 * the bits are the same for every number of threads and every mode of the caller's, and each call
 * leaves the caller its mode.
 */
#include <fenv.h>
#include <math.h>
#include <string.h>

#include "checkmain.h"
#include "fpmode.h"
#include "tensors.h"

/* ---- modes ----------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    int rounding, flushes;
} modes[] = {
    {"usual", FE_TONEAREST, 0},
    {"flush to zero", FE_TONEAREST, 1},
    {"upward", FE_UPWARD, 0},
    {"upward, flush to zero", FE_UPWARD, 1},
    {"toward zero", FE_TOWARDZERO, 0},
};

/* Rounding, traps and flushing; exception flags come and go. */
#if defined(__SSE__)
#define MODE_BITS UINT64_C(0xffc0)
#else
#define MODE_BITS UINT64_C(0x1c00000)
#endif

static uint64_t usual;

static void enter_mode(int s)
{
    usual = ha_fpmode_get();
    if (modes[s].flushes)
        ha_fpmode_set(HA_FPMODE);
    fesetround(modes[s].rounding);
}

/* Back to the usual mode; says if the other was not there any more. */
static const char *leave_mode(uint64_t entered)
{
    uint64_t now = ha_fpmode_get() & MODE_BITS;
    fesetround(FE_TONEAREST);
    ha_fpmode_set(usual);
    if (now != entered)
        return failure("the caller's mode %#llx became %#llx", (unsigned long long)entered,
                       (unsigned long long)now);
    return NULL;
}

/* ---- calls ----------------------------------------------------------------------------------- */

typedef struct variant {
    const char *name;
    hyperattn_method method;
    hyperattn_dtype dtype;
    int causal;
    int64_t nq, nk;
    float kappa_cap;
} variant;

static const variant variants[] = {
    {"exact", HYPERATTN_EXACT, .nq = 500, .nk = 500},
    {"exact causal", HYPERATTN_EXACT, .nq = 600, .nk = 600, .causal = 1},
    {"exact bf16", HYPERATTN_EXACT, HYPERATTN_BF16, .nq = 500, .nk = 500},
    {"exact f16", HYPERATTN_EXACT, HYPERATTN_F16, .nq = 500, .nk = 500},
    {"exact, few rows", HYPERATTN_EXACT, .nq = 3, .nk = 30000},
    {"hyper", HYPERATTN_HYPER, .nq = 1000, .nk = 1000},
    {"hyper causal", HYPERATTN_HYPER, .nq = 1000, .nk = 1000, .causal = 1},
    {"multipole", HYPERATTN_MULTIPOLE, .nq = 1000, .nk = 1000},
    {"multipole causal", HYPERATTN_MULTIPOLE, .nq = 1000, .nk = 1000, .causal = 1},
    {"hyper, capped", HYPERATTN_HYPER, .nq = 700, .nk = 700, .kappa_cap = 4},
};

/* Some entries of every kind of input are subnormal in f32. */
static void sprinkle(tensors *t, operand which, rng *r)
{
    for (int64_t h = 0; h < tensors_heads(t, which); h++)
        for (int64_t i = 0; i < tensors_nrows(t, which, 0); i++)
            for (int64_t c = 0; c < tensors_dim(t, which); c++)
                if (rng_below(r, 3) == 0)
                    tensors_put(t, which, 0, h, i, c,
                                tensors_get(t, which, 0, h, i, c) *
                                    (t->full.dtype == HYPERATTN_F16 ? 1e-6 : 1e-39));
}

/* Scores with a standard deviation of 25, so that weights of every size down to 2^-149 occur. */
static tensors variant_tensors(const variant *v)
{
    hyperattn_problem p = problem_of(2, v->nq, 32);
    p.nheads_kv = 1;
    p.seqlen_k = v->nk;
    p.causal = v->causal;
    p.dtype = v->dtype;
    tensors t = tensors_new(&p, AT_END);
    rng r = rng_new(17);
    tensors_fill(&t, FILL_GAUSS, 13);
    tensors_fill_dout(&t, 13);
    for (int64_t h = 0; h < 2; h++)
        for (int64_t i = 0; i < v->nq; i++)
            for (int64_t c = 0; c < 32; c++)
                tensors_put(&t, T_Q, 0, h, i, c, 25 * tensors_get(&t, T_Q, 0, h, i, c));
    sprinkle(&t, T_K, &r);
    sprinkle(&t, T_V, &r);
    sprinkle(&t, T_DOUT, &r);
    return t;
}

static hyperattn_params variant_params(const variant *v)
{
    hyperattn_params params;
    hyperattn_params_init(&params);
    params.method = v->method;
    params.num_selected = 8; /* so that MULTIPOLE estimates */
    params.private_depth = 3;
    params.block_size = 64;
    params.sample_size = 64;
    params.min_seq_len = 200;
    params.num_sinks = 3;
    params.kappa_cap = v->kappa_cap;
    return params;
}

static const char *run_in_mode(tensors *t, const hyperattn_params *params, const char *level,
                               int nthreads, int mode)
{
    hyperattn_ctx *ctx = ctx_at(level, nthreads);
    enter_mode(mode);
    uint64_t entered = ha_fpmode_get() & MODE_BITS;
    const char *why = tensors_forward(t, ctx, params);
    if (!why && (ha_fpmode_get() & MODE_BITS) != entered)
        why = "forward changed the caller's mode";
    if (!why)
        why = tensors_backward(t, ctx, params);
    const char *changed = leave_mode(entered);
    hyperattn_ctx_destroy(ctx);
    return why ? why : changed;
}

static const char *same_as(const tensors *t, const saved *first)
{
    const char *why = tensors_same_bits(t, first, t->full.seqlen_q);
    return why ? why : tensors_same_gradients(t, first, t->full.seqlen_q, t->full.seqlen_k);
}

/* Every mode with one thread and with some; more numbers of threads with the usual ones. */
static const struct {
    int nthreads, mode;
} runs[] = {{2, 0}, {3, 0}, {5, 0}, {1, 1}, {2, 1}, {5, 1}, {1, 2}, {3, 2}, {1, 3}, {2, 3}, {2, 4}};

static void check_runs(const variant *v, const char *level, int n)
{
    hyperattn_params params = variant_params(v);
    tensors t = variant_tensors(v);
    ck_good_at(run_in_mode(&t, &params, level, 1, 0), "%s, %s", level, v->name);
    saved first = tensors_save(&t);
    for (int s = 0; s < n; s++) {
        const char *why = run_in_mode(&t, &params, level, runs[s].nthreads, runs[s].mode);
        ck_good_at(why ? why : same_as(&t, &first), "%s, %s, %d threads, mode %s", level, v->name,
                   runs[s].nthreads, modes[runs[s].mode].name);
    }
    saved_free(&first);
    tensors_free(&t);
}

START_TEST(bits_depend_neither_on_the_mode_nor_on_threads)
{
    const char *best[8];
    int nlevels = levels_here(best, COUNT(best));
    check_runs(&variants[_i], best[nlevels - 1], emulated() ? 5 : COUNT(runs));
}
END_TEST

START_TEST(the_same_at_lower_levels)
{
    const char *lower[8];
    int nlevels = levels_here(lower, COUNT(lower));
    const variant small[] = {{"exact", HYPERATTN_EXACT, .nq = 300, .nk = 300},
                             {"hyper", HYPERATTN_HYPER, .nq = 300, .nk = 300}};
    for (int level = 0; level < nlevels - 1; level++)
        for (int s = 0; s < COUNT(small); s++)
            check_runs(&small[s], lower[level], 8);
}
END_TEST

/* ---- merge ----------------------------------------------------------------------------------- */

enum { MERGE_ROWS = 3000, MERGE_COLUMNS = 300 };

static tensors merge_part(uint64_t seed)
{
    hyperattn_problem p = problem_of(1, MERGE_ROWS, MERGE_COLUMNS);
    tensors t = tensors_new(&p, AT_END);
    rng r = rng_new(seed);
    for (int64_t i = 0; i < MERGE_ROWS; i++) {
        ((float *)t.lse.data)[i] = (float)(60 * rng_gauss(&r));
        for (int64_t c = 0; c < MERGE_COLUMNS; c++)
            tensors_put(&t, T_OUT, 0, 0, i, c, (c % 3 ? 1 : 1e-39) * (double)(seed + 1));
    }
    return t;
}

static tensors merged_in_mode(int nthreads, int mode)
{
    tensors a = merge_part(1), b = merge_part(2);
    hyperattn_ctx *ctx = ctx_at(NULL, nthreads);
    hyperattn_plan *plan;
    ck_ok(hyperattn_plan_create(&plan, ctx, &a.problem, NULL));
    enter_mode(mode);
    uint64_t entered = ha_fpmode_get() & MODE_BITS;
    hyperattn_status status =
        hyperattn_merge(plan, a.mem[T_OUT].data, (float *)a.lse.data, b.mem[T_OUT].data,
                        (const float *)b.lse.data);
    ck_good(leave_mode(entered));
    ck_ok(status);
    hyperattn_plan_destroy(plan);
    hyperattn_ctx_destroy(ctx);
    tensors_free(&b);
    return a;
}

START_TEST(merge_too)
{
    tensors first = merged_in_mode(1, 0);
    saved want = tensors_save(&first);
    for (int s = 0; s < (emulated() ? 4 : COUNT(runs)); s++) {
        tensors t = merged_in_mode(runs[s].nthreads, runs[s].mode);
        ck_good_at(tensors_same_bits(&t, &want, MERGE_ROWS), "%d threads, mode %s",
                   runs[s].nthreads, modes[runs[s].mode].name);
        tensors_free(&t);
    }
    saved_free(&want);
    tensors_free(&first);
}
END_TEST

/* ---- measure --------------------------------------------------------------------------------- */

enum { MEASURED_HEADS = 2 };

typedef struct measured {
    hyperattn_report total, per_head[MEASURED_HEADS];
} measured;

static measured measured_in_mode(const tensors *t, const hyperattn_params *params, int nthreads,
                                 int mode)
{
    measured m;
    hyperattn_ctx *ctx = ctx_at(NULL, nthreads);
    hyperattn_plan *plan;
    hyperattn_report_init(&m.total);
    hyperattn_report_init(&m.per_head[0]);
    ck_ok(hyperattn_plan_create(&plan, ctx, &t->problem, params));
    enter_mode(mode);
    uint64_t entered = ha_fpmode_get() & MODE_BITS;
    hyperattn_status status =
        hyperattn_measure(plan, t->mem[T_Q].data, t->mem[T_K].data, t->mem[T_V].data,
                          t->mem[T_OUT].data, 300, &m.total, m.per_head);
    ck_good(leave_mode(entered));
    ck_ok(status);
    hyperattn_plan_destroy(plan);
    hyperattn_ctx_destroy(ctx);
    return m;
}

static int same_report(const hyperattn_report *a, const hyperattn_report *b)
{
    return a->rel_error == b->rel_error && a->rel_error_low == b->rel_error_low &&
           a->rel_error_high == b->rel_error_high && a->max_row_error == b->max_row_error &&
           a->alpha == b->alpha && a->kappa == b->kappa && a->rows_checked == b->rows_checked;
}

START_TEST(measure_too)
{
    const variant v = {"hyper", HYPERATTN_HYPER, .nq = 700, .nk = 700};
    const hyperattn_params params = variant_params(&v);
    tensors t = variant_tensors(&v);
    ck_good(tensors_run(&t, &params, NULL, 1));
    const measured first = measured_in_mode(&t, &params, 1, 0);
    ck_assert_double_gt(first.total.rel_error, 0);
    for (int s = 0; s < (emulated() ? 4 : COUNT(runs)); s++) {
        const measured m = measured_in_mode(&t, &params, runs[s].nthreads, runs[s].mode);
        int same = same_report(&m.total, &first.total);
        for (int h = 0; h < MEASURED_HEADS; h++)
            same &= same_report(&m.per_head[h], &first.per_head[h]);
        ck_assert_msg(same, "%d threads, mode %s: another report", runs[s].nthreads,
                      modes[runs[s].mode].name);
    }
    tensors_free(&t);
}
END_TEST

int main(void)
{
    if (emulated())
        puts("reduced: 5 of 11 numbers of threads and modes");
    TCase *topic = topic_begin("fpmode");
    tcase_add_loop_test(topic, bits_depend_neither_on_the_mode_nor_on_threads, 0, COUNT(variants));
    tcase_add_test(topic, the_same_at_lower_levels);
    tcase_add_test(topic, merge_too);
    tcase_add_test(topic, measure_too);
    return topic_end();
}
