/* SPDX-License-Identifier: Apache-2.0
 *
 * Gradients of exact attention for every shape, dtype and layout, at every instruction-set level:
 * compared with the float64 oracle in guarded memory. The out and lse that backward is given are
 * the oracle's too, so that one oracle serves all levels.
 */
#include <string.h>

#include "checkmain.h"
#include "grad_oracle.h"

static int nlevels;

static hyperattn_params exact_params(void)
{
    hyperattn_params params;
    hyperattn_params_init(&params);
    params.method = HYPERATTN_EXACT;
    return params;
}

/* bf16 products round what they multiply; all other arithmetic is f32. */
static grad_rule rule_of(hyperattn_dtype dtype, const char *level)
{
    return dtype == HYPERATTN_BF16 && strstr(level, "bf16") ? GRAD_PLAIN : GRAD_F32;
}

/* Fills one problem, runs it at every level and compares. */
static const char *gradients_match(const hyperattn_problem *problem, fill kind, placement at,
                                   int nthreads)
{
    hyperattn_params params = exact_params();
    tensors t = tensors_new(problem, at);
    tensors_fill(&t, kind, 7);
    tensors_fill_dout(&t, 7);
    pattern p = pattern_exact(&t);
    oracle o = oracle_exact(&t);
    oracle_store(&o, &t);
    grad_oracle g = grad_oracle_of(&t, &p, NULL);
    const char *why = NULL;
    for (int level = 0; level < nlevels && !why; level++) {
        grad_rule rule = rule_of(t.full.dtype, levels[level]);
        if (rule == GRAD_PLAIN)
            grad_oracle_plain(&g, &t, &p);
        why = tensors_run_backward(&t, &params, levels[level], nthreads);
        if (!why)
            why = grad_compare(&g, &t, rule, 1);
        if (why)
            why = failure("%s: %s", levels[level], why);
    }
    grad_oracle_free(&g);
    oracle_free(&o);
    pattern_free(&p);
    tensors_free(&t);
    return why;
}

static void check_shape_with(hyperattn_problem p, fill kind, placement at, int nthreads)
{
    if (p.nheads_kv == 0)
        p.nheads_kv = p.nheads;
    ck_good_at(gradients_match(&p, kind, at, nthreads),
               "%s seqlen_q %lld seqlen_k %lld head_dim %lld head_dim_v %lld heads %lld/%lld "
               "causal %d placement %d fill %d",
               dtype_name(p.dtype), (long long)p.seqlen_q, (long long)p.seqlen_k,
               (long long)p.head_dim, (long long)p.head_dim_v, (long long)p.nheads,
               (long long)p.nheads_kv, p.causal, at, kind);
}

static void check_shape(hyperattn_problem p, fill kind, placement at)
{
    check_shape_with(p, kind, at, 1);
}

/* ---- shapes ---------------------------------------------------------------------------------- */

static const int64_t dims[] = {1, 3, 15, 16, 17, 59, 64, 80, 96, 111, 128, 256};

/* Lengths against head dims, long ones against every third; placement and mask change from case to
 * case, so that each meets many tails. */
START_TEST(every_length_and_head_dim)
{
    static const int64_t lengths[] = {1, 2, 15, 16, 17, 63, 64, 65, 127, 129, 255, 257};
    for (int in = 0; in < COUNT(lengths); in++)
        for (int id = 0; id < COUNT(dims); id++) {
            if ((emulated() || lengths[in] > 128) && (in + id) % 3 != 0)
                continue;
            hyperattn_problem p = problem_of(1, lengths[in], dims[id]);
            p.causal = (in + id) & 1;
            check_shape(p, FILL_GAUSS, (placement)((in + id / 2) % PLACEMENTS));
        }
}
END_TEST

/* Rows and keys are cut into blocks of some 200; a grid of them may be of any shape. Where one side
 * is much the shorter, its sums have copies. */
START_TEST(many_blocks)
{
    static const struct {
        int64_t nq, nk, heads, heads_kv;
        int causal;
    } shapes[] = {
        {1100, 60, 1, 1, 0},  {60, 1100, 1, 1, 0},  {700, 900, 1, 1, 0},  {513, 513, 1, 1, 1},
        {300, 1000, 1, 1, 1}, {1000, 300, 1, 1, 1}, {780, 780, 2, 1, 1},  {260, 600, 6, 2, 0},
        {1700, 300, 1, 1, 1}, {300, 1700, 1, 1, 0}, {400, 500, 6, 1, 0},  {90, 1300, 2, 2, 1},
    };
    for (int s = 0; s < COUNT(shapes); s++) {
        if (emulated() && s % 4)
            continue;
        hyperattn_problem p = problem_of(shapes[s].heads, shapes[s].nq, 9);
        p.nheads_kv = shapes[s].heads_kv;
        p.seqlen_k = shapes[s].nk;
        p.head_dim_v = 7;
        p.causal = shapes[s].causal;
        check_shape_with(p, FILL_GAUSS, AT_END, 1 + s % 3);
    }
}
END_TEST

START_TEST(every_tail_of_queries_and_keys)
{
    for (int64_t tail = 0; tail < 16; tail++) {
        hyperattn_problem p = problem_of(1, 48 + tail, 32 + tail);
        p.seqlen_k = 112 + (5 * tail) % 16;
        p.head_dim_v = 32 + (3 * tail) % 16;
        for (p.causal = 0; p.causal < 2; p.causal++)
            check_shape(p, FILL_GAUSS, (placement)((tail + p.causal) % PLACEMENTS));
    }
}
END_TEST

START_TEST(head_dim_v_differs)
{
    static const int64_t dvs[] = {1, 3, 17, 64, 96, 128, 256, 300};
    for (int id = 0; id < COUNT(dvs); id++)
        for (int causal = 0; causal < 2; causal++) {
            hyperattn_problem p = problem_of(1, 67, causal ? 64 : 301);
            p.head_dim_v = dvs[id];
            p.causal = causal;
            check_shape(p, FILL_GAUSS, AT_END);
        }
}
END_TEST

/* 12 query heads add to the gradients of 1, 2, 3, 4, 6 or 12 key heads, in each of 2 sequences. */
START_TEST(grouped_query_heads)
{
    static const int64_t groups[] = {1, 2, 3, 4, 6, 12};
    for (int g = 0; g < COUNT(groups); g++)
        for (int dtype = HYPERATTN_F32; dtype <= HYPERATTN_F16; dtype++) {
            hyperattn_problem p = problem_of(12, 35, 24);
            p.batch = 2;
            p.nheads_kv = groups[g];
            p.seqlen_k = 50;
            p.head_dim_v = 20;
            p.dtype = (hyperattn_dtype)dtype;
            p.causal = g & 1;
            check_shape(p, FILL_GAUSS, (placement)(g % PLACEMENTS));
        }
}
END_TEST

/* Row i sees the keys up to i + seqlen_k - seqlen_q; with fewer keys than queries the first rows
 * see none. */
START_TEST(causal_is_aligned_bottom_right)
{
    static const int64_t pairs[][2] = {{5, 9},    {9, 5},     {64, 1},    {1, 64},   {17, 200},
                                       {200, 17}, {130, 257}, {257, 130}, {64, 128}, {128, 64},
                                       {300, 556}, {556, 300}};
    for (int i = 0; i < COUNT(pairs); i++) {
        hyperattn_problem p = problem_of(2, pairs[i][0], 20);
        p.nheads_kv = 1 + i % 2;
        p.seqlen_k = pairs[i][1];
        p.causal = 1;
        check_shape(p, FILL_GAUSS, (placement)(i % PLACEMENTS));
    }
}
END_TEST

/* ---- numbers --------------------------------------------------------------------------------- */

static void low_precision(hyperattn_dtype dtype)
{
    static const int64_t some[] = {1, 2, 16, 17, 63, 129, 257};
    for (int in = 0; in < COUNT(some); in++)
        for (int id = 0; id < COUNT(dims); id++) {
            if ((emulated() || some[in] > 128) && (in + id) % 3 != 0)
                continue;
            hyperattn_problem p = problem_of(1, some[in], dims[id]);
            p.dtype = dtype;
            p.causal = (in + id) & 1;
            check_shape(p, id % 3 ? FILL_GAUSS : FILL_CLUSTERED,
                        (placement)((in + id / 2) % PLACEMENTS));
        }
}

START_TEST(bf16)
{
    low_precision(HYPERATTN_BF16);
}
END_TEST

START_TEST(f16)
{
    low_precision(HYPERATTN_F16);
}
END_TEST

/* From forward's own out, rounded to the type, to gradients at most twice as far from the true ones
 * as those of a plain implementation. */
START_TEST(sixteen_bit_gradients_follow_forward)
{
    for (int dtype = HYPERATTN_BF16; dtype <= HYPERATTN_F16; dtype++)
        for (int level = 0; level < nlevels; level++) {
            hyperattn_problem p = problem_of(4, 200, 48);
            p.nheads_kv = 2;
            p.dtype = (hyperattn_dtype)dtype;
            p.causal = level & 1;
            hyperattn_params params = exact_params();
            tensors t = tensors_new(&p, AT_END);
            tensors_fill(&t, FILL_GAUSS, 3);
            tensors_fill_dout(&t, 3);
            pattern seen = pattern_exact(&t);
            oracle o = oracle_exact(&t);
            grad_oracle g = grad_oracle_of(&t, &seen, &o);
            grad_oracle_plain(&g, &t, &seen);
            ck_good(tensors_run(&t, &params, levels[level], 1));
            ck_good(tensors_run_backward(&t, &params, levels[level], 1));
            ck_good_at(grad_compare(&g, &t, GRAD_PLAIN, 1), "%s %s", levels[level],
                       dtype_name((hyperattn_dtype)dtype));
            grad_oracle_free(&g);
            oracle_free(&o);
            pattern_free(&seen);
            tensors_free(&t);
        }
}
END_TEST

START_TEST(softmax_scale_is_used)
{
    static const float scales[] = {1e-3f, 0.3f, 2.0f, -0.5f};
    for (int s = 0; s < COUNT(scales); s++) {
        hyperattn_problem p = problem_of(1, 70, 20);
        p.softmax_scale = scales[s];
        check_shape(p, FILL_GAUSS, AT_END);
    }
}
END_TEST

START_TEST(clustered_input)
{
    for (int causal = 0; causal < 2; causal++) {
        hyperattn_problem p = problem_of(1, 300, 64);
        p.causal = causal;
        check_shape(p, FILL_CLUSTERED, AT_END);
    }
}
END_TEST

/* Subnormal, zero and huge entries: scores up to 1e30, whose lse has no digit left for weights. No
 * gradient is known then, but every one is written, and nothing else. */
START_TEST(extreme_input_is_survived)
{
    for (int dtype = HYPERATTN_F32; dtype <= HYPERATTN_F16; dtype++)
        for (int causal = 0; causal < 2; causal++)
            for (int level = 0; level < nlevels; level++) {
                hyperattn_problem p = problem_of(2, 131, 32);
                p.dtype = (hyperattn_dtype)dtype;
                p.causal = causal;
                hyperattn_params params = exact_params();
                tensors t = tensors_new(&p, AT_END);
                tensors_fill(&t, FILL_EXTREME, 7);
                tensors_fill_dout(&t, 7);
                ck_good(tensors_run(&t, &params, levels[level], 1));
                ck_good_at(tensors_run_backward(&t, &params, levels[level], 1), "%s",
                           levels[level]);
                tensors_free(&t);
            }
}
END_TEST

/* ---- layouts --------------------------------------------------------------------------------- */

static void set_strides(int64_t stride[3], int64_t batch, int64_t head, int64_t row)
{
    stride[0] = batch;
    stride[1] = head;
    stride[2] = row;
}

/* [batch, row, head, dim], as most engines lay tensors out. */
START_TEST(heads_may_lie_inside_rows)
{
    hyperattn_problem p = problem_of(4, 37, 24);
    p.batch = 3;
    p.nheads_kv = 2;
    p.seqlen_k = 53;
    p.head_dim_v = 40;
    set_strides(p.q_stride, 37 * 4 * 24, 24, 4 * 24);
    set_strides(p.k_stride, 53 * 2 * 24, 24, 2 * 24);
    set_strides(p.v_stride, 53 * 2 * 40, 40, 2 * 40);
    set_strides(p.out_stride, 37 * 4 * 40, 40, 4 * 40);
    for (int dtype = HYPERATTN_F32; dtype <= HYPERATTN_F16; dtype++)
        for (p.causal = 0; p.causal < 2; p.causal++) {
            p.dtype = (hyperattn_dtype)dtype;
            check_shape(p, FILL_GAUSS, (placement)(dtype % PLACEMENTS));
        }
}
END_TEST

/* Odd gaps after rows, heads and sequences, which dq, dk and dv must leave as they were. */
START_TEST(rows_may_be_padded)
{
    hyperattn_problem p = problem_of(2, 21, 16);
    p.batch = 2;
    p.seqlen_k = 30;
    p.head_dim_v = 18;
    set_strides(p.q_stride, 2000, 700, 17);
    set_strides(p.k_stride, 2100, 801, 19);
    set_strides(p.v_stride, 3001, 903, 29);
    set_strides(p.out_stride, 1507, 510, 23);
    for (int at = 0; at < PLACEMENTS; at++)
        check_shape(p, FILL_GAUSS, (placement)at);
}
END_TEST

/* Sequences of any length, none included, in one packed array. */
START_TEST(ragged_batches)
{
    static const int64_t cu_q[] = {0, 5, 5, 38, 39, 103}, cu_k[] = {0, 9, 21, 54, 54, 70};
    hyperattn_problem p = problem_of(4, 64, 24);
    p.batch = 5;
    p.nheads_kv = 2;
    p.seqlen_k = 33;
    p.head_dim_v = 17;
    p.cu_seqlens_q = cu_q;
    p.cu_seqlens_k = cu_k;
    for (p.causal = 0; p.causal < 2; p.causal++)
        for (int at = 0; at < PLACEMENTS; at++)
            check_shape(p, FILL_GAUSS, (placement)at);
}
END_TEST

/* [row, head, dim], FlashAttention's layout of ragged batches; two sequences have many blocks. */
START_TEST(ragged_rows_may_hold_all_heads)
{
    static const int64_t cu[] = {0, 531, 540, 541, 841};
    hyperattn_problem p = problem_of(2, 531, 16);
    p.batch = 4;
    p.cu_seqlens_q = cu;
    p.cu_seqlens_k = cu;
    p.causal = 1;
    set_strides(p.q_stride, 0, 16, 32);
    set_strides(p.k_stride, 0, 16, 32);
    set_strides(p.v_stride, 0, 16, 32);
    set_strides(p.out_stride, 0, 16, 32);
    check_shape(p, FILL_GAUSS, AT_END);
}
END_TEST

int main(void)
{
    nlevels = topic_levels();
    if (emulated())
        puts("reduced: every length with every third head_dim, 3 of 12 grids of blocks");
    TCase *topic = topic_begin("backward");
    tcase_add_test(topic, every_length_and_head_dim);
    tcase_add_test(topic, many_blocks);
    tcase_add_test(topic, every_tail_of_queries_and_keys);
    tcase_add_test(topic, head_dim_v_differs);
    tcase_add_test(topic, grouped_query_heads);
    tcase_add_test(topic, causal_is_aligned_bottom_right);
    tcase_add_test(topic, bf16);
    tcase_add_test(topic, f16);
    tcase_add_test(topic, sixteen_bit_gradients_follow_forward);
    tcase_add_test(topic, softmax_scale_is_used);
    tcase_add_test(topic, clustered_input);
    tcase_add_test(topic, extreme_input_is_survived);
    tcase_add_test(topic, heads_may_lie_inside_rows);
    tcase_add_test(topic, rows_may_be_padded);
    tcase_add_test(topic, ragged_batches);
    tcase_add_test(topic, ragged_rows_may_hold_all_heads);
    return topic_end();
}
