/* SPDX-License-Identifier: Apache-2.0
 *
 * Every rule of hyperattn.h about contexts, problems and params: what breaks it gives the
 * documented status and a text that names the argument (and its value where it is one number),
 * creates no plan, and leaves no block allocated.
 */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "checkmain.h"
#include "refusal.h"

START_TEST(the_template_is_valid)
{
    fixture f;
    ck_good(fixture_begin(&f));
    ck_good(accepts(&f));
    ck_good(fixture_end(&f));
}
END_TEST

/* ---- numbers out of range ------------------------------------------------------------------ */

typedef struct bad_field {
    const char *name;
    int in_params; /* else in problem */
    size_t at, size;
    long long value;
} bad_field;

#define FIELD(type, field) offsetof(type, field), sizeof(((type *)NULL)->field)
#define PROBLEM(field, value) {#field, 0, FIELD(hyperattn_problem, field), value}
#define PARAMS(field, value) {#field, 1, FIELD(hyperattn_params, field), value}

static const bad_field bad_fields[] = {
    PROBLEM(struct_size, 0),
    PROBLEM(batch, 0),
    PROBLEM(batch, -1),
    PROBLEM(nheads, 0),
    PROBLEM(nheads, -4),
    PROBLEM(nheads_kv, -2),
    PROBLEM(nheads_kv, 3),
    PROBLEM(nheads_kv, 8),
    PROBLEM(seqlen_q, 0),
    PROBLEM(seqlen_q, -40),
    PROBLEM(seqlen_q, INT64_MIN),
    PROBLEM(seqlen_k, -48),
    PROBLEM(head_dim, 0),
    PROBLEM(head_dim, -16),
    PROBLEM(head_dim_v, -24),
    PROBLEM(dtype, 3),
    PROBLEM(dtype, -1),
    PROBLEM(causal, 2),
    PROBLEM(causal, -1),
    PARAMS(struct_size, 0),
    PARAMS(method, 4),
    PARAMS(method, -1),
    PARAMS(heavy, 2),
    PARAMS(heavy, -1),
    PARAMS(sampling, 2),
    PARAMS(sampling, -1),
    PARAMS(lsh_num_projs, 0),
    PARAMS(lsh_num_projs, -7),
    PARAMS(lsh_num_projs, 17),
    PARAMS(block_size, 0),
    PARAMS(block_size, -256),
    PARAMS(sample_size, -1),
    PARAMS(min_seq_len, 0),
    PARAMS(min_seq_len, -1024),
    PARAMS(num_sinks, -1),
    PARAMS(window, -1),
    PARAMS(strict_causal, 2),
    PARAMS(strict_causal, -1),
};

START_TEST(a_number_out_of_range_is_named)
{
    const bad_field *bad = &bad_fields[_i];
    fixture f;
    ck_good(fixture_begin(&f));
    char *field = (bad->in_params ? (char *)&f.params : (char *)&f.problem) + bad->at;
    int narrow = (int)bad->value;
    memcpy(field, bad->size == sizeof narrow ? (const void *)&narrow : (const void *)&bad->value,
           bad->size);
    ck_good_at(refuses_value(&f, bad->name, bad->value), "%s = %lld", bad->name, bad->value);
    ck_good(fixture_end(&f));
}
END_TEST

START_TEST(softmax_scale_must_be_finite)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY, 3.4e38f, 2.3587e38f, -2.3587e38f};
    for (int s = 0; s < COUNT(bad); s++) {
        fixture f;
        ck_good(fixture_begin(&f));
        f.problem.softmax_scale = bad[s];
        ck_good(refuses(&f, HYPERATTN_EINVAL, "softmax_scale"));
        ck_good(fixture_end(&f));
    }
}
END_TEST

START_TEST(kappa_cap_must_be_a_number_from_0)
{
    static const float bad[] = {NAN, -1};
    for (int s = 0; s < COUNT(bad); s++) {
        fixture f;
        ck_good(fixture_begin(&f));
        f.params.kappa_cap = bad[s];
        ck_good(refuses(&f, HYPERATTN_EINVAL, "kappa_cap"));
        ck_good(fixture_end(&f));
    }
}
END_TEST

/* tau is estimated from sampled rows, later ones included. */
START_TEST(kappa_cap_cannot_be_strictly_causal)
{
    fixture f;
    ck_good(fixture_begin(&f));
    f.problem.causal = 1;
    f.params.strict_causal = 1;
    ck_good(accepts(&f));
    f.params.kappa_cap = 4;
    ck_good(refuses(&f, HYPERATTN_ENOTSUP, "kappa_cap"));
    ck_good(fixture_end(&f));
}
END_TEST

START_TEST(window_needs_causal)
{
    fixture f;
    ck_good(fixture_begin(&f));
    f.params.window = 8;
    ck_good(refuses(&f, HYPERATTN_EINVAL, "window"));
    f.problem.causal = 1;
    ck_good(accepts(&f));
    ck_good(fixture_end(&f));
}
END_TEST

START_TEST(exact_reads_only_method)
{
    fixture f;
    ck_good(fixture_begin(&f));
    f.params.method = HYPERATTN_EXACT;
    f.params.block_size = -1;
    f.params.window = 8;
    f.params.kappa_cap = NAN;
    ck_good(accepts(&f));
    ck_good(fixture_end(&f));
}
END_TEST

/* ---- block mask ---------------------------------------------------------------------------- */

/* 40 queries and 48 keys in blocks of 16: 3 rows of up to 3 key blocks. */
static const char *with_mask(int64_t query_block, int64_t key_block, const int64_t *row_start,
                             const int64_t *key_blocks, const char *name)
{
    fixture f;
    ck_good(fixture_begin(&f));
    hyperattn_block_mask mask;
    hyperattn_block_mask_init(&mask);
    mask.query_block = query_block;
    mask.key_block = key_block;
    mask.row_start = row_start;
    mask.key_blocks = key_blocks;
    f.params.block_mask = &mask;
    const char *why = name ? refuses(&f, HYPERATTN_EINVAL, name) : accepts(&f);
    if (!why)
        ck_good(fixture_end(&f));
    return why;
}

START_TEST(block_masks_are_checked)
{
    static const int64_t rows[] = {0, 2, 3, 5}, falling[] = {0, 2, 1, 5}, from_one[] = {1, 2, 3, 5},
                         below[] = {0, -1, 3, 5}, crowded[] = {0, 4, 4, 5};
    static const int64_t blocks[] = {0, 2, 1, 0, 1}, unsorted[] = {2, 0, 1, 0, 1},
                         twice[] = {0, 0, 1, 0, 1}, beyond[] = {0, 3, 1, 0, 1},
                         negative[] = {-1, 2, 1, 0, 1};
    ck_good(with_mask(16, 16, rows, blocks, NULL));
    ck_good(with_mask(0, 16, rows, blocks, "query_block"));
    ck_good(with_mask(-16, 16, rows, blocks, "query_block"));
    ck_good(with_mask(16, 0, rows, blocks, "key_block"));
    ck_good(with_mask(16, -16, rows, blocks, "key_block"));
    ck_good(with_mask(16, 16, NULL, blocks, "row_start"));
    ck_good(with_mask(16, 16, rows, NULL, "key_blocks"));
    ck_good(with_mask(16, 16, falling, blocks, "row_start"));
    ck_good(with_mask(16, 16, from_one, blocks, "row_start"));
    ck_good(with_mask(16, 16, below, blocks, "row_start"));
    ck_good(with_mask(16, 16, crowded, blocks, ""));
    ck_good(with_mask(16, 16, rows, unsorted, "key_blocks"));
    ck_good(with_mask(16, 16, rows, twice, "key_blocks"));
    ck_good(with_mask(16, 16, rows, beyond, "key_blocks"));
    ck_good(with_mask(16, 16, rows, negative, "key_blocks"));
}
END_TEST

START_TEST(block_mask_per_head_is_checked)
{
    static const int64_t rows[] = {0, 1, 2, 3}, blocks[] = {0, 1, 2};
    fixture f;
    ck_good(fixture_begin(&f));
    hyperattn_block_mask mask;
    hyperattn_block_mask_init(&mask);
    mask.query_block = mask.key_block = 16;
    mask.row_start = rows;
    mask.key_blocks = blocks;
    f.params.block_mask = &mask;
    ck_good(accepts(&f));
    mask.per_head = 2;
    ck_good(refuses_value(&f, "per_head", 2));
    ck_good(fixture_end(&f));
}
END_TEST

/* ---- NULL, and the context ----------------------------------------------------------------- */

START_TEST(null_arguments_are_named)
{
    fixture f;
    ck_good(fixture_begin(&f));
    hyperattn_plan *plan;
    ck_assert_int_eq(hyperattn_plan_create(NULL, f.ctx, &f.problem, NULL), HYPERATTN_EINVAL);
    ck_assert_ptr_nonnull(strstr(hyperattn_last_error(), "plan"));
    ck_assert_int_eq(hyperattn_plan_create(&plan, NULL, &f.problem, NULL), HYPERATTN_EINVAL);
    ck_assert_ptr_nonnull(strstr(hyperattn_last_error(), "ctx"));
    ck_assert_ptr_null(plan);
    ck_assert_int_eq(hyperattn_plan_create(&plan, f.ctx, NULL, NULL), HYPERATTN_EINVAL);
    ck_assert_ptr_nonnull(strstr(hyperattn_last_error(), "problem"));
    ck_assert_ptr_null(plan);
    ck_assert_int_eq(hyperattn_ctx_create(NULL, NULL), HYPERATTN_EINVAL);
    ck_assert_ptr_nonnull(strstr(hyperattn_last_error(), "ctx"));
    ck_good(fixture_end(&f));
}
END_TEST

START_TEST(null_is_ignored_by_destroy)
{
    hyperattn_plan_destroy(NULL);
    hyperattn_ctx_destroy(NULL);
}
END_TEST

static void refuse_ctx(const hyperattn_ctx_params *params, const char *name)
{
    hyperattn_ctx *ctx = (hyperattn_ctx *)&name;
    ck_assert_msg(hyperattn_ctx_create(&ctx, params) == HYPERATTN_EINVAL, "%s was accepted", name);
    ck_assert_ptr_null(ctx);
    ck_assert_msg(strstr(hyperattn_last_error(), name) != NULL, "'%s' does not name %s",
                  hyperattn_last_error(), name);
}

START_TEST(ctx_params_are_checked)
{
    allocs memory = {0};
    hyperattn_ctx_params params = allocs_params(&memory), good = params;
    params.backend = (hyperattn_backend)9;
    refuse_ctx(&params, "backend");
    params = good;
    params.device = -1;
    refuse_ctx(&params, "device");
    params = good;
    params.nthreads = -1;
    refuse_ctx(&params, "nthreads");
    params = good;
    params.free = NULL;
    refuse_ctx(&params, "free");
    params = good;
    params.alloc = NULL;
    refuse_ctx(&params, "alloc");
    ck_assert_int_eq(memory.live, 0);
}
END_TEST

/* They are a device backend's. With AUTO, which may become one, the CPU takes no notice. */
START_TEST(the_cpu_has_no_device_and_no_stream)
{
    hyperattn_ctx_params params;
    hyperattn_ctx_params_init(&params);
    params.backend = HYPERATTN_BACKEND_CPU;
    params.device = 1;
    refuse_ctx(&params, "device");
    params.device = 0;
    params.stream = &params;
    refuse_ctx(&params, "stream");
    params.backend = HYPERATTN_BACKEND_AUTO;
    params.device = 1;
    hyperattn_ctx *ctx;
    ck_ok(hyperattn_ctx_create(&ctx, &params));
    hyperattn_ctx_destroy(ctx);
}
END_TEST

/* ---- defaults ------------------------------------------------------------------------------ */

START_TEST(defaults_are_as_documented)
{
    hyperattn_problem p;
    hyperattn_problem_init(&p);
    ck_assert_uint_eq(p.struct_size, sizeof p);
    ck_assert(p.batch == 1 && p.nheads == 1 && p.nheads_kv == 0 && p.seqlen_k == 0);
    ck_assert(p.head_dim_v == 0 && p.dtype == HYPERATTN_F32 && !p.causal);
    ck_assert(p.softmax_scale == 0 && !p.cu_seqlens_q && !p.cu_seqlens_k);
    hyperattn_params o;
    hyperattn_params_init(&o);
    ck_assert_uint_eq(o.struct_size, sizeof o);
    ck_assert(o.method == HYPERATTN_AUTO && o.heavy == HYPERATTN_HEAVY_SORTLSH);
    ck_assert(o.sampling == HYPERATTN_SAMPLING_UNIFORM && o.lsh_num_projs == 7);
    ck_assert(o.block_size == 256 && o.sample_size == 256 && o.min_seq_len == 1024);
    ck_assert(o.num_sinks == 16 && o.window == 0 && o.strict_causal == 0 && o.kappa_cap == 0);
    ck_assert(o.seed == 0 && !o.block_mask);
}
END_TEST

START_TEST(paper_params_are_the_published_algorithm)
{
    hyperattn_params o;
    hyperattn_params_paper(&o);
    ck_assert_uint_eq(o.struct_size, sizeof o);
    ck_assert(o.method == HYPERATTN_HYPER && o.heavy == HYPERATTN_HEAVY_SORTLSH);
    ck_assert(o.lsh_num_projs == 7 && o.block_size == 256 && o.sample_size == 256);
    ck_assert(o.min_seq_len == 4096 && o.num_sinks == 0 && o.window == 0);
    ck_assert(o.strict_causal == 0 && o.kappa_cap == 0 && !o.block_mask);
}
END_TEST

int main(void)
{
    TCase *topic = topic_begin("problem");
    tcase_add_test(topic, the_template_is_valid);
    tcase_add_loop_test(topic, a_number_out_of_range_is_named, 0, COUNT(bad_fields));
    tcase_add_test(topic, softmax_scale_must_be_finite);
    tcase_add_test(topic, kappa_cap_must_be_a_number_from_0);
    tcase_add_test(topic, kappa_cap_cannot_be_strictly_causal);
    tcase_add_test(topic, window_needs_causal);
    tcase_add_test(topic, exact_reads_only_method);
    tcase_add_test(topic, block_masks_are_checked);
    tcase_add_test(topic, block_mask_per_head_is_checked);
    tcase_add_test(topic, null_arguments_are_named);
    tcase_add_test(topic, null_is_ignored_by_destroy);
    tcase_add_test(topic, ctx_params_are_checked);
    tcase_add_test(topic, the_cpu_has_no_device_and_no_stream);
    tcase_add_test(topic, defaults_are_as_documented);
    tcase_add_test(topic, paper_params_are_the_published_algorithm);
    return topic_end();
}
