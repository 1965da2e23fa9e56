/* SPDX-License-Identifier: Apache-2.0
 *
 * Exact attention is softmax(scale q k^T) v, for every shape, dtype and layout, at every
 * instruction-set level: compared with the float64 oracle in guarded memory. Each test runs once
 * per level; its loop index is the level.
 */
#include "checkmain.h"
#include "oracle.h"

static const int64_t lengths[] = {1,   2,   15,  16,  17,  63,  64,  65, 127,
                                  128, 129, 255, 256, 257, 511, 513};
static const int64_t dims[] = {1, 3, 15, 16, 17, 59, 64, 80, 96, 111, 128, 256};

static hyperattn_params exact_params(void)
{
    hyperattn_params params;
    hyperattn_params_init(&params);
    params.method = HYPERATTN_EXACT;
    return params;
}

/* Fills, runs and compares one problem. */
static const char *exact_matches(const hyperattn_problem *problem, fill kind, placement at,
                                 const char *level)
{
    hyperattn_params params = exact_params();
    tensors t = tensors_new(problem, at);
    tensors_fill(&t, kind, 7);
    const char *why = tensors_run(&t, &params, level, 1);
    if (!why) {
        oracle o = oracle_exact(&t);
        why = oracle_compare(&o, &t, 1);
        oracle_free(&o);
    }
    tensors_free(&t);
    return why;
}

static void check_shape(hyperattn_problem p, fill kind, placement at, const char *level)
{
    if (p.nheads_kv == 0)
        p.nheads_kv = p.nheads;
    ck_good_at(exact_matches(&p, kind, at, level),
               "%s %s seqlen_q %lld seqlen_k %lld head_dim %lld head_dim_v %lld heads %lld/%lld "
               "causal %d placement %d fill %d",
               level, dtype_name(p.dtype), (long long)p.seqlen_q, (long long)p.seqlen_k,
               (long long)p.head_dim, (long long)p.head_dim_v, (long long)p.nheads,
               (long long)p.nheads_kv, p.causal, at, kind);
}

/* HYPERATTN_CPU gives the level that it names, so that the tests below test what they say. */
START_TEST(ceiling_selects_the_level)
{
    hyperattn_ctx *ctx = ctx_at(levels[_i], 1);
    ck_assert_ptr_nonnull(ctx);
    ck_assert_str_eq(hyperattn_ctx_isa(ctx), levels[_i]);
    hyperattn_ctx_destroy(ctx);
}
END_TEST

/* All lengths against all head dims; placement and mask change from case to case, so that each
 * meets many tails. */
START_TEST(every_length_and_head_dim)
{
    for (int in = 0; in < COUNT(lengths); in++)
        for (int id = 0; id < COUNT(dims); id++) {
            if (emulated() && (in + id) % 3 != 0)
                continue;
            hyperattn_problem p = problem_of(1, lengths[in], dims[id]);
            p.causal = (in + id) & 1;
            check_shape(p, FILL_GAUSS, (placement)((in + id / 2) % PLACEMENTS), levels[_i]);
        }
}
END_TEST

static void low_precision(hyperattn_dtype dtype, const char *level)
{
    static const int64_t some[] = {1, 2, 16, 17, 63, 129, 257};
    for (int in = 0; in < COUNT(some); in++)
        for (int id = 0; id < COUNT(dims); id++) {
            hyperattn_problem p = problem_of(1, some[in], dims[id]);
            p.dtype = dtype;
            p.causal = (in + id) & 1;
            check_shape(p, id % 3 ? FILL_GAUSS : FILL_CLUSTERED,
                        (placement)((in + id / 2) % PLACEMENTS), level);
        }
}

START_TEST(bf16)
{
    low_precision(HYPERATTN_BF16, levels[_i]);
}
END_TEST

START_TEST(f16)
{
    low_precision(HYPERATTN_F16, levels[_i]);
}
END_TEST

START_TEST(every_tail_of_queries_and_keys)
{
    for (int64_t tail = 0; tail < 16; tail++) {
        hyperattn_problem p = problem_of(1, 48 + tail, 32 + tail);
        p.seqlen_k = 112 + (5 * tail) % 16;
        p.head_dim_v = 32 + (3 * tail) % 16;
        for (int at = 0; at < PLACEMENTS; at++)
            check_shape(p, FILL_GAUSS, (placement)at, levels[_i]);
    }
}
END_TEST

START_TEST(head_dim_v_differs)
{
    static const int64_t dvs[] = {1, 3, 17, 64, 96, 128, 256, 300};
    for (int id = 0; id < COUNT(dvs); id++)
        for (int causal = 0; causal < 2; causal++) {
            hyperattn_problem p = problem_of(1, 67, 64);
            p.head_dim_v = dvs[id];
            p.causal = causal;
            check_shape(p, FILL_GAUSS, AT_END, levels[_i]);
        }
}
END_TEST

/* 12 query heads read 1, 2, 3, 4, 6 or 12 key heads, in each of 2 sequences. */
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
            check_shape(p, FILL_GAUSS, (placement)(g % PLACEMENTS), levels[_i]);
        }
}
END_TEST

/* Row i sees the keys up to i + seqlen_k - seqlen_q; with fewer keys than queries the first rows
 * see none. */
START_TEST(causal_is_aligned_bottom_right)
{
    static const int64_t pairs[][2] = {{5, 9},   {9, 5},     {64, 1},   {1, 64},  {17, 200},
                                       {200, 17}, {130, 257}, {257, 130}, {64, 128}, {128, 64}};
    for (int i = 0; i < COUNT(pairs); i++) {
        hyperattn_problem p = problem_of(2, pairs[i][0], 40);
        p.seqlen_k = pairs[i][1];
        p.causal = 1;
        check_shape(p, FILL_GAUSS, (placement)(i % PLACEMENTS), levels[_i]);
    }
}
END_TEST

START_TEST(rows_without_keys_give_zeros)
{
    hyperattn_problem p = problem_of(1, 40, 16);
    p.seqlen_k = 7;
    p.causal = 1;
    hyperattn_params params = exact_params();
    tensors t = tensors_new(&p, AT_END);
    tensors_fill(&t, FILL_GAUSS, 1);
    ck_good(tensors_run(&t, &params, levels[_i], 1));
    for (int64_t i = 0; i < 33; i++) {
        ck_assert_float_infinite(tensors_lse(&t, 0, 0, i));
        ck_assert(tensors_lse(&t, 0, 0, i) < 0);
        for (int64_t c = 0; c < 16; c++)
            ck_assert_double_eq(tensors_get(&t, T_OUT, 0, 0, i, c), 0);
    }
    ck_assert_float_finite(tensors_lse(&t, 0, 0, 33));
    tensors_free(&t);
}
END_TEST

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
            check_shape(p, FILL_GAUSS, (placement)(dtype % PLACEMENTS), levels[_i]);
        }
}
END_TEST

/* Odd gaps after rows, heads and sequences, which out must leave as they were. */
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
        check_shape(p, FILL_GAUSS, (placement)at, levels[_i]);
}
END_TEST

/* A stride of 0 over sequences or heads lets them share their keys. */
START_TEST(inputs_may_be_broadcast)
{
    hyperattn_problem p = problem_of(2, 19, 16);
    p.batch = 3;
    set_strides(p.k_stride, 0, 19 * 16, 16);
    set_strides(p.v_stride, 19 * 16, 0, 16);
    check_shape(p, FILL_GAUSS, AT_END, levels[_i]);
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
            check_shape(p, FILL_GAUSS, (placement)at, levels[_i]);
}
END_TEST

/* [row, head, dim], FlashAttention's layout of ragged batches. */
START_TEST(ragged_rows_may_hold_all_heads)
{
    static const int64_t cu[] = {0, 31, 40, 41};
    hyperattn_problem p = problem_of(2, 31, 16);
    p.batch = 3;
    p.cu_seqlens_q = cu;
    p.cu_seqlens_k = cu;
    p.causal = 1;
    set_strides(p.q_stride, 0, 16, 32);
    set_strides(p.k_stride, 0, 16, 32);
    set_strides(p.v_stride, 0, 16, 32);
    set_strides(p.out_stride, 0, 16, 32);
    check_shape(p, FILL_GAUSS, AT_END, levels[_i]);
}
END_TEST

START_TEST(softmax_scale_is_used)
{
    static const float scales[] = {1e-3f, 0.3f, 2.0f, -0.5f};
    for (int s = 0; s < COUNT(scales); s++) {
        hyperattn_problem p = problem_of(1, 70, 20);
        p.softmax_scale = scales[s];
        check_shape(p, FILL_GAUSS, AT_END, levels[_i]);
    }
}
END_TEST

START_TEST(clustered_input)
{
    for (int causal = 0; causal < 2; causal++) {
        hyperattn_problem p = problem_of(1, 300, 64);
        p.causal = causal;
        check_shape(p, FILL_CLUSTERED, AT_END, levels[_i]);
    }
}
END_TEST

/* Subnormal, zero and huge entries: scores from nothing to 1e30. */
START_TEST(extreme_input)
{
    for (int dtype = HYPERATTN_F32; dtype <= HYPERATTN_F16; dtype++)
        for (int causal = 0; causal < 2; causal++) {
            hyperattn_problem p = problem_of(2, 131, 32);
            p.dtype = (hyperattn_dtype)dtype;
            p.causal = causal;
            check_shape(p, FILL_EXTREME, AT_END, levels[_i]);
        }
}
END_TEST

/* lse is optional, and out does not depend on it. */
START_TEST(lse_may_be_null)
{
    hyperattn_problem p = problem_of(2, 75, 24);
    hyperattn_params params = exact_params();
    tensors t = tensors_new(&p, AT_END);
    tensors_fill(&t, FILL_GAUSS, 3);
    ck_good(tensors_run(&t, &params, levels[_i], 1));
    saved with_lse = tensors_save(&t);
    tensors_reset(&t);
    hyperattn_ctx *ctx = ctx_at(levels[_i], 1);
    hyperattn_plan *plan;
    ck_ok(hyperattn_plan_create(&plan, ctx, &p, &params));
    ck_ok(hyperattn_forward(plan, t.mem[T_Q].data, t.mem[T_K].data, t.mem[T_V].data,
                            t.mem[T_OUT].data, NULL, NULL));
    ck_assert_mem_eq(t.mem[T_OUT].data, with_lse.out, t.mem[T_OUT].size);
    hyperattn_plan_destroy(plan);
    hyperattn_ctx_destroy(ctx);
    saved_free(&with_lse);
    tensors_free(&t);
}
END_TEST

int main(void)
{
    int nlevels = topic_levels();
    if (emulated())
        puts("reduced: every length with every third head_dim");
    TCase *topic = topic_begin("exact");
    tcase_add_loop_test(topic, ceiling_selects_the_level, 0, nlevels);
    tcase_add_loop_test(topic, every_length_and_head_dim, 0, nlevels);
    tcase_add_loop_test(topic, bf16, 0, nlevels);
    tcase_add_loop_test(topic, f16, 0, nlevels);
    tcase_add_loop_test(topic, every_tail_of_queries_and_keys, 0, nlevels);
    tcase_add_loop_test(topic, head_dim_v_differs, 0, nlevels);
    tcase_add_loop_test(topic, grouped_query_heads, 0, nlevels);
    tcase_add_loop_test(topic, causal_is_aligned_bottom_right, 0, nlevels);
    tcase_add_loop_test(topic, rows_without_keys_give_zeros, 0, nlevels);
    tcase_add_loop_test(topic, heads_may_lie_inside_rows, 0, nlevels);
    tcase_add_loop_test(topic, rows_may_be_padded, 0, nlevels);
    tcase_add_loop_test(topic, inputs_may_be_broadcast, 0, nlevels);
    tcase_add_loop_test(topic, ragged_batches, 0, nlevels);
    tcase_add_loop_test(topic, ragged_rows_may_hold_all_heads, 0, nlevels);
    tcase_add_loop_test(topic, softmax_scale_is_used, 0, nlevels);
    tcase_add_loop_test(topic, clustered_input, 0, nlevels);
    tcase_add_loop_test(topic, extreme_input, 0, nlevels);
    tcase_add_loop_test(topic, lse_may_be_null, 0, nlevels);
    return topic_end();
}
