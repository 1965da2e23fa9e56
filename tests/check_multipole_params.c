/* SPDX-License-Identifier: Apache-2.0
 *
 * The parameters of MULTIPOLE: which are refused and how, which are not read, and what plans tell
 * of it.
 */
#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "checkmain.h"
#include "refusal.h"
#include "tensors.h"

static void begin(fixture *f)
{
    ck_good(fixture_begin(f));
    f->params.method = HYPERATTN_MULTIPOLE;
}

/* ---- numbers --------------------------------------------------------------------------------- */

typedef struct field_value {
    const char *name;
    size_t at;
    int value;
} field_value;

#define FIELD(name, value) {#name, offsetof(hyperattn_params, name), value}

static const field_value bad_values[] = {
    FIELD(budget, -1),          FIELD(budget, 1),
    FIELD(budget, 63),          FIELD(budget, 1000001),
    FIELD(leaf_size, -128),     FIELD(leaf_size, 64),
    FIELD(leaf_size, 200),      FIELD(leaf_size, 2176),
    FIELD(num_selected, -1),    FIELD(num_candidates, -1),
    FIELD(cell_size, -8),       FIELD(cell_size, 4),
    FIELD(cell_size, 24),       FIELD(cell_size, 256),
    FIELD(far_cell_size, -1),   FIELD(far_cell_size, 31),
    FIELD(num_sinks, -1),       FIELD(window, -1),
    FIELD(strict_causal, 2),    FIELD(strict_causal, -1),
};

static const field_value good_values[] = {
    FIELD(budget, 64),          FIELD(budget, 1000000),
    FIELD(leaf_size, 128),      FIELD(leaf_size, 2048),
    FIELD(num_selected, INT_MAX), FIELD(num_candidates, INT_MAX),
    FIELD(cell_size, 8),        FIELD(cell_size, 16),
    FIELD(cell_size, 32),       FIELD(cell_size, 64),
    FIELD(cell_size, 128),      FIELD(far_cell_size, 64),
    FIELD(far_cell_size, INT_MAX), FIELD(num_sinks, INT_MAX),
};

static void set(hyperattn_params *params, const field_value *v)
{
    memcpy((char *)params + v->at, &v->value, sizeof v->value);
}

START_TEST(a_number_out_of_range_is_named)
{
    fixture f;
    begin(&f);
    set(&f.params, &bad_values[_i]);
    ck_good_at(refuses_value(&f, bad_values[_i].name, bad_values[_i].value), "%s = %d",
               bad_values[_i].name, bad_values[_i].value);
    ck_good(fixture_end(&f));
}
END_TEST

START_TEST(a_number_in_range_is_accepted)
{
    fixture f;
    begin(&f);
    set(&f.params, &good_values[_i]);
    ck_good_at(accepts(&f), "%s = %d", good_values[_i].name, good_values[_i].value);
    ck_good(fixture_end(&f));
}
END_TEST

/* Where the cell is given, the far cell is held against that one. */
START_TEST(a_far_cell_holds_a_cell)
{
    fixture f;
    begin(&f);
    f.params.cell_size = 8;
    f.params.far_cell_size = 7;
    ck_good(refuses_value(&f, "far_cell_size", 7));
    f.params.far_cell_size = 8;
    ck_good(accepts(&f));
    f.params.cell_size = 128;
    f.params.far_cell_size = 127;
    ck_good(refuses_value(&f, "far_cell_size", 127));
    ck_good(fixture_end(&f));
}
END_TEST

/* ---- what it shares, refuses and ignores ----------------------------------------------------- */

START_TEST(window_needs_causal)
{
    fixture f;
    begin(&f);
    f.params.window = 8;
    ck_good(refuses_value(&f, "window", 8));
    f.problem.causal = 1;
    ck_good(accepts(&f));
    f.params.window = INT_MAX;
    ck_good(accepts(&f));
    ck_good(fixture_end(&f));
}
END_TEST

START_TEST(kappa_cap_must_be_a_number)
{
    fixture f;
    begin(&f);
    f.params.kappa_cap = NAN;
    ck_good(refuses(&f, HYPERATTN_EINVAL, "kappa_cap"));
    f.params.kappa_cap = -1;
    ck_good(refuses(&f, HYPERATTN_EINVAL, "kappa_cap"));
    ck_good(fixture_end(&f));
}
END_TEST

START_TEST(private_depth_must_be_finite)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY}, good[] = {-1, 0, 1e-30f, 12, 1e30f};
    fixture f;
    begin(&f);
    for (int s = 0; s < COUNT(bad); s++) {
        f.params.private_depth = bad[s];
        ck_good(refuses(&f, HYPERATTN_EINVAL, "private_depth"));
    }
    for (int s = 0; s < COUNT(good); s++) {
        f.params.private_depth = good[s];
        ck_good(accepts(&f));
    }
    ck_good(fixture_end(&f));
}
END_TEST

START_TEST(what_is_not_there_is_refused)
{
    fixture f;
    begin(&f);
    f.params.kappa_cap = 4;
    ck_good(refuses(&f, HYPERATTN_ENOTSUP, "kappa_cap"));
    f.params.kappa_cap = 0;
    f.problem.causal = f.params.strict_causal = 1;
    ck_good(accepts(&f));
    f.params.target_error = 0.1f;
    ck_good(refuses(&f, HYPERATTN_ENOTSUP, "strict_causal"));
    f.problem.causal = f.params.strict_causal = 0;
    f.params.target_error = 0;
    hyperattn_block_mask mask;
    hyperattn_block_mask_init(&mask);
    f.params.block_mask = &mask;
    ck_good(refuses(&f, HYPERATTN_ENOTSUP, "block_mask"));
    f.params.block_mask = NULL;
    ck_good(accepts(&f));
    ck_good(fixture_end(&f));
}
END_TEST

START_TEST(fields_of_other_methods_are_not_read)
{
    fixture f;
    begin(&f);
    f.params.heavy = (hyperattn_heavy)-1;
    f.params.sampling = (hyperattn_sampling)-1;
    f.params.lsh_num_projs = f.params.block_size = f.params.sample_size = -1;
    f.params.min_seq_len = -1;
    ck_good(accepts(&f));
    hyperattn_params_init(&f.params);
    f.params.method = HYPERATTN_HYPER;
    f.params.budget = f.params.leaf_size = f.params.num_selected = f.params.num_candidates = -1;
    f.params.cell_size = f.params.far_cell_size = -1;
    f.params.private_depth = NAN;
    ck_good(accepts(&f));
    ck_good(fixture_end(&f));
}
END_TEST

/* ---- plans ----------------------------------------------------------------------------------- */

static hyperattn_plan *plan_of(hyperattn_ctx *ctx, int64_t n, int causal, int heads)
{
    hyperattn_problem p = problem_of(heads, n, 64);
    hyperattn_params params;
    hyperattn_plan *plan;
    hyperattn_params_init(&params);
    params.method = HYPERATTN_MULTIPOLE;
    p.causal = causal;
    ck_ok(hyperattn_plan_create(&plan, ctx, &p, &params));
    return plan;
}

/* Cells grow as the root of the length, so that what a call needs does not outgrow it. */
START_TEST(workspace_is_near_linear_in_the_length)
{
    hyperattn_ctx *ctx = ctx_at(NULL, 2);
    for (int causal = 0; causal < 2; causal++) {
        size_t before[2] = {0, 0};
        for (int64_t n = 4096; n <= 262144; n *= 2) {
            hyperattn_plan *plan = plan_of(ctx, n, causal, 2);
            for (int backward = 0; backward < 2; backward++) {
                size_t bytes = hyperattn_plan_workspace(plan, backward);
                ck_assert_msg(!before[backward] ||
                                  (double)bytes <= 2.1 * (double)before[backward],
                              "causal %d, n %lld, backward %d: %zu bytes after %zu", causal,
                              (long long)n, backward, bytes, before[backward]);
                before[backward] = bytes;
            }
            hyperattn_plan_destroy(plan);
        }
    }
    hyperattn_ctx_destroy(ctx);
}
END_TEST

int main(void)
{
    TCase *topic = topic_begin("multipole_params");
    tcase_add_loop_test(topic, a_number_out_of_range_is_named, 0, COUNT(bad_values));
    tcase_add_loop_test(topic, a_number_in_range_is_accepted, 0, COUNT(good_values));
    tcase_add_test(topic, a_far_cell_holds_a_cell);
    tcase_add_test(topic, window_needs_causal);
    tcase_add_test(topic, kappa_cap_must_be_a_number);
    tcase_add_test(topic, private_depth_must_be_finite);
    tcase_add_test(topic, what_is_not_there_is_refused);
    tcase_add_test(topic, fields_of_other_methods_are_not_read);
    tcase_add_test(topic, workspace_is_near_linear_in_the_length);
    return topic_end();
}
