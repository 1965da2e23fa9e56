/* SPDX-License-Identifier: Apache-2.0
 *
 * Few query rows, as in decoding, asked of MULTIPOLE: exact attention, bit by bit, which is faster
 * there; and the number of rows from which it estimates.
 */
#include "algo/multipole.h"
#include "checkmain.h"
#include "tensors.h"

static hyperattn_params params_of(hyperattn_method method, int causal)
{
    hyperattn_params params;
    hyperattn_params_init(&params);
    params.method = method;
    params.leaf_size = 128;
    params.window = causal;
    params.num_selected = 8;
    params.num_candidates = 64;
    params.cell_size = 8;
    params.far_cell_size = 32;
    return params;
}

static void run(tensors *t, const hyperattn_params *params, const char *level)
{
    ck_good(tensors_run(t, params, level, 2));
    ck_good(tensors_run_backward(t, params, level, 2));
}

static const char *same_as(const tensors *t, const saved *s)
{
    const char *why = tensors_same_bits(t, s, INT64_MAX);
    return why ? why : tensors_same_gradients(t, s, INT64_MAX, INT64_MAX);
}

static tensors filled(const hyperattn_problem *p)
{
    tensors t = tensors_new(p, AT_END);
    tensors_fill(&t, FILL_CLUSTERED, 31);
    tensors_fill_dout(&t, 31);
    return t;
}

/* ---- one sequence ---------------------------------------------------------------------------- */

typedef struct shape {
    int64_t nq, nk, heads, heads_kv;
    int causal;
    hyperattn_dtype dtype;
} shape;

static const shape shapes[] = {
    {1, 9000, 2, 2, 1, HYPERATTN_F32},    {1, 5000, 8, 2, 1, HYPERATTN_BF16},
    {2, 9000, 1, 1, 0, HYPERATTN_F32},    {3, 4097, 6, 2, 1, HYPERATTN_F16},
    {5, 9000, 4, 1, 1, HYPERATTN_F32},    {8, 9000, 3, 1, 1, HYPERATTN_F32},
    {8, 5000, 4, 2, 0, HYPERATTN_BF16},   {64, 3000, 2, 1, 1, HYPERATTN_F32},
    {255, 2500, 1, 1, 1, HYPERATTN_F32},  {255, 2500, 1, 1, 0, HYPERATTN_F32},
    {255, 100, 1, 1, 1, HYPERATTN_F32},   {8, 0, 1, 1, 1, HYPERATTN_F32},
};

static hyperattn_problem problem_of_shape(const shape *s)
{
    hyperattn_problem p = problem_of(s->heads, s->nq, 16);
    p.nheads_kv = s->heads_kv;
    p.seqlen_k = s->nk;
    p.causal = s->causal;
    p.dtype = s->dtype;
    return p;
}

START_TEST(few_rows_are_exact)
{
    for (int x = 0; x < COUNT(shapes); x++) {
        const shape *s = &shapes[x];
        const hyperattn_params exact = params_of(HYPERATTN_EXACT, s->causal);
        const hyperattn_params multipole = params_of(HYPERATTN_MULTIPOLE, s->causal);
        const hyperattn_problem p = problem_of_shape(s);
        tensors t = filled(&p);
        run(&t, &exact, levels[_i]);
        saved want = tensors_save(&t);
        run(&t, &multipole, levels[_i]);
        ck_good_at(same_as(&t, &want), "%s: %lld rows, %lld keys, causal %d, %s", levels[_i],
                   (long long)s->nq, (long long)s->nk, s->causal, dtype_name(s->dtype));
        saved_free(&want);
        tensors_free(&t);
    }
}
END_TEST

/* Nor do they take memory for what is not computed. */
START_TEST(few_rows_take_the_workspace_of_exact)
{
    hyperattn_ctx *ctx = ctx_at(NULL, 2);
    for (int x = 0; x < COUNT(shapes); x++) {
        const hyperattn_problem p = problem_of_shape(&shapes[x]);
        hyperattn_plan *plan[2];
        for (int y = 0; y < 2; y++) {
            const hyperattn_params params =
                params_of(y ? HYPERATTN_MULTIPOLE : HYPERATTN_EXACT, p.causal);
            ck_ok(hyperattn_plan_create(&plan[y], ctx, &p, &params));
        }
        for (int backward = 0; backward < 2; backward++)
            ck_assert_uint_eq(hyperattn_plan_workspace(plan[1], backward),
                              hyperattn_plan_workspace(plan[0], backward));
        ck_assert_int_eq(hyperattn_plan_method(plan[1]), HYPERATTN_MULTIPOLE);
        for (int y = 0; y < 2; y++)
            hyperattn_plan_destroy(plan[y]);
    }
    hyperattn_ctx_destroy(ctx);
}
END_TEST

START_TEST(more_rows_are_estimated)
{
    for (int causal = 0; causal < 2; causal++) {
        const hyperattn_params exact = params_of(HYPERATTN_EXACT, causal);
        const hyperattn_params multipole = params_of(HYPERATTN_MULTIPOLE, causal);
        const shape s = {HA_LEAST_ROWS, 2500, 1, 1, causal, HYPERATTN_F32};
        const hyperattn_problem p = problem_of_shape(&s);
        tensors t = filled(&p);
        run(&t, &exact, NULL);
        saved want = tensors_save(&t);
        run(&t, &multipole, NULL);
        ck_assert_ptr_nonnull(tensors_same_bits(&t, &want, INT64_MAX));
        saved_free(&want);
        tensors_free(&t);
    }
}
END_TEST

/* ---- a batch --------------------------------------------------------------------------------- */

/* Sequences of few rows and of many: 1, 400, 0, 255, 300 and 8 rows. */
static const int64_t cu_q[] = {0, 1, 401, 401, 656, 956, 964};
static const int64_t cu_k[] = {0, 3000, 4500, 4600, 6600, 6900, 11900};

/* Rows of sequence b that are not what s has. */
static int64_t other_rows(const tensors *t, const saved *s, int64_t b)
{
    int64_t others = 0;
    for (int64_t h = 0; h < t->full.nheads; h++)
        for (int64_t i = 0; i < tensors_nrows(t, T_Q, b); i++) {
            int64_t at = tensors_at(t, T_OUT, b, h, i), row = tensors_row(t, b, h, i);
            const float *now = (const float *)t->mem[T_OUT].data, *then = s->out;
            int same = tensors_lse(t, b, h, i) == s->lse[row];
            for (int64_t c = 0; c < tensors_dim(t, T_OUT); c++)
                same &= now[at + c] == then[at + c];
            others += !same;
        }
    return others;
}

START_TEST(each_sequence_of_a_batch_is_what_it_is_alone)
{
    for (int causal = 0; causal < 2; causal++) {
        const hyperattn_params exact = params_of(HYPERATTN_EXACT, causal);
        const hyperattn_params multipole = params_of(HYPERATTN_MULTIPOLE, causal);
        hyperattn_problem p = problem_of(2, 400, 16);
        p.batch = COUNT(cu_q) - 1;
        p.nheads_kv = 1;
        p.causal = causal;
        p.seqlen_k = 5000;
        p.cu_seqlens_q = cu_q;
        p.cu_seqlens_k = cu_k;
        tensors t = filled(&p);
        run(&t, &exact, NULL);
        saved want = tensors_save(&t);
        run(&t, &multipole, NULL);
        for (int64_t b = 0; b < p.batch; b++) {
            int64_t rows = tensors_nrows(&t, T_Q, b), others = other_rows(&t, &want, b);
            ck_assert_msg((others == 0) == (rows < HA_LEAST_ROWS),
                          "causal %d, sequence %lld: %lld rows of 2 * %lld are not exact", causal,
                          (long long)b, (long long)others, (long long)rows);
        }
        saved_free(&want);
        tensors_free(&t);
    }
}
END_TEST

int main(void)
{
    int nlevels = topic_levels();
    TCase *topic = topic_begin("multipole_few");
    tcase_add_loop_test(topic, few_rows_are_exact, 0, nlevels);
    tcase_add_test(topic, few_rows_take_the_workspace_of_exact);
    tcase_add_test(topic, more_rows_are_estimated);
    tcase_add_test(topic, each_sequence_of_a_batch_is_what_it_is_alone);
    return topic_end();
}
