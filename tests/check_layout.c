/* SPDX-License-Identifier: Apache-2.0
 *
 * Which sizes, strides and ragged batches hyperattn_plan_create takes, and which it refuses because
 * a product wraps or two elements of out would share an address.
 */
#include <string.h>

#include "checkmain.h"
#include "refusal.h"

/* ---- sizes and strides whose products wrap -------------------------------------------------- */

START_TEST(sizes_that_wrap_are_refused)
{
    static const struct {
        int64_t batch, nheads, seqlen, head_dim;
    } sizes[] = {
        {1, 1, INT64_C(1) << 62, 16},
        {1, 1, INT64_C(1) << 60, 16},
        {1, 1, INT64_MAX, 1},
        {INT64_C(1) << 40, 4, INT64_C(1) << 20, 16},
        {INT64_MAX, 4, 40, 16},
        {1, INT64_C(1) << 62, 40, 16},
        {1, 4, 40, INT64_C(1) << 62},
        {INT64_C(1) << 32, INT64_C(1) << 32, 1, 1},
    };
    for (int s = 0; s < COUNT(sizes); s++)
        for (int method = HYPERATTN_EXACT; method <= HYPERATTN_HYPER; method++) {
            fixture f;
            ck_good(fixture_begin(&f));
            f.problem.batch = sizes[s].batch;
            f.problem.nheads = f.problem.nheads_kv = sizes[s].nheads;
            f.problem.seqlen_q = f.problem.seqlen_k = sizes[s].seqlen;
            f.problem.head_dim = f.problem.head_dim_v = sizes[s].head_dim;
            f.params.method = (hyperattn_method)method;
            ck_good_at(refuses(&f, HYPERATTN_EINVAL, ""), "sizes %d", s);
            ck_assert_str_ne(hyperattn_last_error(), "");
            ck_good(fixture_end(&f));
        }
}
END_TEST

static int64_t *stride_named(hyperattn_problem *p, int which, const char **name)
{
    static const char *const names[] = {"q_stride", "k_stride", "v_stride", "out_stride"};
    int64_t *all[] = {p->q_stride, p->k_stride, p->v_stride, p->out_stride};
    *name = names[which];
    return all[which];
}

/* Sets one tensor's strides and says how plan creation takes them. */
static const char *with_strides(int which, const int64_t stride[3], int valid)
{
    fixture f;
    const char *name;
    ck_good(fixture_begin(&f));
    memcpy(stride_named(&f.problem, which, &name), stride, 3 * sizeof *stride);
    const char *why = valid ? accepts(&f) : refuses(&f, HYPERATTN_EINVAL, name);
    if (why)
        return failure("%s {%lld, %lld, %lld}: %s", name, (long long)stride[0],
                       (long long)stride[1], (long long)stride[2], why);
    ck_good(fixture_end(&f));
    return NULL;
}

START_TEST(strides_that_wrap_are_refused)
{
    static const int64_t strides[][3] = {
        {1 << 20, 1 << 10, INT64_C(1) << 60}, {1 << 20, INT64_C(1) << 62, 24},
        {INT64_C(1) << 62, 1 << 10, 24},      {INT64_MAX, INT64_MAX, INT64_MAX},
        {INT64_C(1) << 61, 1 << 10, 24},
    };
    for (int which = 0; which < 4; which++)
        for (int s = 0; s < COUNT(strides); s++)
            ck_good(with_strides(which, strides[s], 0));
}
END_TEST

START_TEST(negative_strides_are_refused)
{
    static const int64_t strides[][3] = {{-8192, 2048, 24}, {8192, -2048, 24}, {8192, 2048, -24}};
    for (int which = 0; which < 4; which++)
        for (int s = 0; s < COUNT(strides); s++)
            ck_good(with_strides(which, strides[s], 0));
}
END_TEST

/* Rows are 16 (q, k) or 24 (v, out) elements wide, and there are 40 or more of them. */
START_TEST(rows_may_not_overlap)
{
    static const int64_t strides[][3] = {{8192, 2048, 15}, {8192, 2048, 1}, {8192, 2048, 0}};
    for (int which = 0; which < 4; which++)
        for (int s = 0; s < COUNT(strides); s++)
            ck_good(with_strides(which, strides[s], 0));
}
END_TEST

/* Inputs may share heads or sequences; two elements of out may not share an address. */
START_TEST(out_may_not_overlap_itself)
{
    static const int64_t bad[][3] = {
        {8192, 0, 24},    /* all heads at one place */
        {0, 2048, 24},    /* all sequences */
        {8192, 24, 24},   /* row 1 of head 0 is row 0 of head 1 */
        {8192, 959, 24},  /* the last element of head 0 is the first of head 1 */
        {3839, 960, 24},  /* the same of sequences */
        {960, 960, 24},   /* sequence 1 starts on head 1 */
        {8192, 12, 96},   /* heads inside rows, half a row apart */
    };
    static const int64_t good[][3] = {
        {8192, 960, 24}, /* heads without a gap */
        {3840, 960, 24}, /* packed */
        {3840, 24, 96},  /* [batch, row, head, dim] */
        {24, 48, 192},   /* [row, head, batch, dim] */
    };
    for (int s = 0; s < COUNT(bad); s++)
        ck_good(with_strides(3, bad[s], 0));
    for (int s = 0; s < COUNT(good); s++)
        ck_good(with_strides(3, good[s], 1));
}
END_TEST

START_TEST(inputs_may_be_shared)
{
    static const int64_t good[][3] = {{0, 2048, 24}, {8192, 0, 24}, {0, 0, 24}, {8192, 24, 24}};
    for (int which = 0; which < 3; which++)
        for (int s = 0; s < COUNT(good); s++)
            ck_good(with_strides(which, good[s], 1));
}
END_TEST

/* A single row needs no room between rows. */
START_TEST(strides_of_single_rows_do_not_matter)
{
    fixture f;
    ck_good(fixture_begin(&f));
    f.problem.batch = f.problem.nheads = f.problem.nheads_kv = 1;
    f.problem.seqlen_q = 1;
    f.problem.q_stride[0] = f.problem.out_stride[0] = 1;
    ck_good(accepts(&f));
    ck_good(fixture_end(&f));
}
END_TEST

/* ---- ragged batches ------------------------------------------------------------------------ */

START_TEST(ragged_batches_are_checked)
{
    static const int64_t good_q[] = {0, 40, 61}, good_k[] = {0, 48, 48};
    static const int64_t from_one[] = {1, 40, 61}, falling[] = {0, 40, 39}, negative[] = {0, -1, 3},
                         longer[] = {0, 20, 69}, wrapping[] = {0, 5, INT64_MAX};
    static const struct {
        const int64_t *cu_q, *cu_k;
        const char *name;
    } cases[] = {
        {good_q, NULL, "cu_seqlens_k"},    {NULL, good_k, "cu_seqlens_q"},
        {from_one, good_k, "cu_seqlens_q"}, {good_q, from_one, "cu_seqlens_k"},
        {falling, good_k, "cu_seqlens_q"}, {good_q, falling, "cu_seqlens_k"},
        {negative, good_k, "cu_seqlens_q"}, {good_q, negative, "cu_seqlens_k"},
        {longer, good_k, "cu_seqlens_q"},  {good_q, longer, "cu_seqlens_k"},
        {wrapping, good_k, "cu_seqlens_q"}, {good_q, wrapping, "cu_seqlens_k"},
        {good_q, good_k, NULL},
    };
    for (int s = 0; s < COUNT(cases); s++) {
        fixture f;
        ck_good(fixture_begin(&f));
        f.problem.cu_seqlens_q = cases[s].cu_q;
        f.problem.cu_seqlens_k = cases[s].cu_k;
        ck_good_at(cases[s].name ? refuses(&f, HYPERATTN_EINVAL, cases[s].name) : accepts(&f),
                   "case %d", s);
        ck_good(fixture_end(&f));
    }
}
END_TEST

int main(void)
{
    TCase *topic = topic_begin("layout");
    tcase_add_test(topic, sizes_that_wrap_are_refused);
    tcase_add_test(topic, strides_that_wrap_are_refused);
    tcase_add_test(topic, negative_strides_are_refused);
    tcase_add_test(topic, rows_may_not_overlap);
    tcase_add_test(topic, out_may_not_overlap_itself);
    tcase_add_test(topic, inputs_may_be_shared);
    tcase_add_test(topic, strides_of_single_rows_do_not_matter);
    tcase_add_test(topic, ragged_batches_are_checked);
    return topic_end();
}
