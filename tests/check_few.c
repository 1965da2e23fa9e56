/* SPDX-License-Identifier: Apache-2.0
 *
 * Few query rows against many keys, as in decoding, where the keys and not the rows are shared out:
 * against float64, for every level, type, layout, group and head_dim; the same bits for any number
 * of threads; and nothing from keys that a row does not see.
 */
#include <math.h>
#include <string.h>

#include "checkmain.h"
#include "oracle.h"

static hyperattn_params exact_params(void)
{
    hyperattn_params params;
    hyperattn_params_init(&params);
    params.method = HYPERATTN_EXACT;
    return params;
}

/* ---- against float64 ------------------------------------------------------------------------- */

typedef struct shape {
    int64_t nq, nk, heads, heads_kv, d, dv;
    int causal;
    hyperattn_dtype dtype;
} shape;

/* Ranges are of 4096 keys; tiles, vectors and register blocks are powers of two. */
static const shape shapes[] = {
    {1, 20000, 1, 1, 8, 8, 0, HYPERATTN_F32},     {1, 12289, 1, 1, 64, 64, 0, HYPERATTN_F32},
    {1, 12288, 1, 1, 64, 64, 1, HYPERATTN_BF16},  {1, 4097, 1, 1, 80, 80, 0, HYPERATTN_F16},
    {2, 4096, 3, 1, 80, 40, 1, HYPERATTN_F32},    {3, 4095, 3, 1, 16, 33, 0, HYPERATTN_F32},
    {4, 8191, 8, 1, 16, 16, 1, HYPERATTN_F32},    {5, 8193, 8, 2, 16, 24, 1, HYPERATTN_BF16},
    {6, 4500, 8, 1, 20, 80, 0, HYPERATTN_F16},    {7, 100, 32, 1, 64, 64, 1, HYPERATTN_F32},
    {8, 1000, 32, 1, 16, 16, 0, HYPERATTN_F32},   {9, 1000, 32, 2, 8, 8, 1, HYPERATTN_F32},
    {1, 5000, 32, 1, 16, 16, 1, HYPERATTN_F32},   {1, 5000, 32, 1, 16, 16, 0, HYPERATTN_BF16},
    {9, 17, 3, 3, 80, 80, 1, HYPERATTN_F32},      {9, 5, 2, 1, 64, 64, 1, HYPERATTN_F32},
    {9, 4100, 1, 1, 1, 1, 1, HYPERATTN_F32},      {5, 1, 6, 2, 64, 17, 0, HYPERATTN_F16},
    {17, 4200, 2, 1, 24, 24, 1, HYPERATTN_F32},   {128, 4200, 2, 1, 8, 8, 1, HYPERATTN_F32},
    {256, 4200, 1, 1, 4, 4, 1, HYPERATTN_F32},
};

static hyperattn_problem shape_problem(const shape *s)
{
    hyperattn_problem p = problem_of(s->heads, s->nq, s->d);
    p.nheads_kv = s->heads_kv;
    p.seqlen_k = s->nk;
    p.head_dim_v = s->dv;
    p.causal = s->causal;
    p.dtype = s->dtype;
    return p;
}

static tensors filled(const hyperattn_problem *p, fill kind)
{
    tensors t = tensors_new(p, AT_END);
    tensors_fill(&t, kind, 23);
    return t;
}

/* At every level, and with all numbers of threads at each, which must give the same bits. */
static const char *check_levels(tensors *t)
{
    const char *names[8];
    static const int threads[] = {2, 5, 3};
    int nlevels = levels_here(names, COUNT(names)), n = emulated() ? 1 : COUNT(threads);
    hyperattn_params params = exact_params();
    oracle o = oracle_exact(t);
    const char *why = NULL;
    for (int level = 0; level < nlevels && !why; level++) {
        why = tensors_run(t, &params, names[level], 1);
        why = why ? why : oracle_compare(&o, t, 1);
        saved first = tensors_save(t);
        for (int s = 0; s < n && !why; s++) {
            why = tensors_run(t, &params, names[level], threads[s]);
            why = why ? why : tensors_same_bits(t, &first, INT64_MAX);
        }
        saved_free(&first);
        why = why ? failure("%s: %s", names[level], why) : NULL;
    }
    oracle_free(&o);
    return why;
}

START_TEST(every_shape)
{
    const shape *s = &shapes[_i];
    const hyperattn_problem p = shape_problem(s);
    tensors t = filled(&p, _i % 2 ? FILL_CLUSTERED : FILL_GAUSS);
    ck_good_at(check_levels(&t), "%lld rows, %lld keys, %lld heads on %lld, head_dim %lld, %lld, "
               "causal %d, %s", (long long)s->nq, (long long)s->nk, (long long)s->heads,
               (long long)s->heads_kv, (long long)s->d, (long long)s->dv, s->causal,
               dtype_name(s->dtype));
    tensors_free(&t);
}
END_TEST

/* ---- layouts --------------------------------------------------------------------------------- */

static void set_strides(int64_t stride[3], int64_t batch, int64_t head, int64_t row)
{
    stride[0] = batch;
    stride[1] = head;
    stride[2] = row;
}

/* [batch, row, head, dim], and rows with gaps. */
START_TEST(strides)
{
    enum { NQ = 3, NK = 4300, D = 20, DV = 13 };
    for (int padded = 0; padded < 2; padded++)
        for (int dtype = HYPERATTN_F32; dtype <= HYPERATTN_F16; dtype++) {
            hyperattn_problem p = problem_of(6, NQ, D);
            int64_t q = 6 * D + 7 * padded, k = 2 * D + 5 * padded, v = 2 * DV + 3 * padded;
            int64_t out = 6 * DV + 11 * padded;
            p.batch = p.nheads_kv = 2;
            p.seqlen_k = NK;
            p.head_dim_v = DV;
            p.causal = padded;
            p.dtype = (hyperattn_dtype)dtype;
            set_strides(p.q_stride, NQ * q, D, q);
            set_strides(p.k_stride, NK * k, D, k);
            set_strides(p.v_stride, NK * v, DV, v);
            set_strides(p.out_stride, NQ * out, DV, out);
            tensors t = filled(&p, FILL_GAUSS);
            ck_good_at(check_levels(&t), "padded %d, %s", padded, dtype_name(p.dtype));
            tensors_free(&t);
        }
}
END_TEST

/* Sequences with few rows and with many, without rows and without keys, in one batch. */
START_TEST(ragged_batches_of_both_kinds)
{
    static const int64_t cu_q[] = {0, 1, 1, 6, 306, 307, 316, 317};
    static const int64_t cu_k[] = {0, 4500, 4700, 4700, 5000, 9096, 9100, 13300};
    for (int causal = 0; causal < 2; causal++) {
        hyperattn_problem p = problem_of(6, 300, 16);
        p.batch = 7;
        p.nheads_kv = 2;
        p.head_dim_v = 24;
        p.seqlen_k = 4500;
        p.causal = causal;
        p.cu_seqlens_q = cu_q;
        p.cu_seqlens_k = cu_k;
        tensors t = filled(&p, FILL_CLUSTERED);
        ck_good_at(check_levels(&t), "causal %d", causal);
        tensors_free(&t);
    }
}
END_TEST

/* ---- keys that a row does not see ------------------------------------------------------------ */

/* Keys behind row `last`'s hold what must not reach it. */
static void check_unseen(const hyperattn_problem *p, int64_t last, const char *level)
{
    static const double poisons[] = {NAN, INFINITY, -INFINITY, 1e30};
    hyperattn_params params = exact_params();
    tensors t = filled(p, FILL_GAUSS);
    ck_good(tensors_run(&t, &params, level, 2));
    saved before = tensors_save(&t);
    for (int64_t j = 0; j < p->seqlen_k; j++)
        if (!tensors_sees(&t, 0, last, j)) {
            tensors_set_row(&t, T_K, 0, 0, j, poisons[j % 4]);
            tensors_set_row(&t, T_V, 0, 0, j, poisons[(j + 1) % 4]);
        }
    ck_good(tensors_run(&t, &params, level, 2));
    ck_good_at(tensors_same_bits(&t, &before, last + 1), "%s: %lld rows, %lld keys, row %lld",
               level, (long long)p->seqlen_q, (long long)p->seqlen_k, (long long)last);
    saved_free(&before);
    tensors_free(&t);
}

START_TEST(unseen_keys_stay_out)
{
    static const int64_t keys[] = {9, 70, 4096, 4099, 4104, 8200};
    for (int dtype = HYPERATTN_F32; dtype <= HYPERATTN_F16; dtype++)
        for (int s = 0; s < COUNT(keys); s++)
            for (int64_t last = 0; last < 8; last += 7) {
                hyperattn_problem p = problem_of(3, 9, 16);
                p.nheads_kv = 1;
                p.seqlen_k = keys[s];
                p.causal = 1;
                p.dtype = (hyperattn_dtype)dtype;
                check_unseen(&p, last, levels[_i]);
            }
}
END_TEST

int main(void)
{
    if (emulated())
        puts("reduced: 1 and 2 threads");
    int nlevels = topic_levels();
    TCase *topic = topic_begin("few");
    tcase_add_loop_test(topic, every_shape, 0, COUNT(shapes));
    tcase_add_test(topic, strides);
    tcase_add_test(topic, ragged_batches_of_both_kinds);
    tcase_add_loop_test(topic, unseen_keys_stay_out, 0, nlevels);
    return topic_end();
}
