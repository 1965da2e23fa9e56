/* SPDX-License-Identifier: Apache-2.0
 *
 * MULTIPOLE where it is exact: with rows that are all alike a cell says precisely what its keys do,
 * and so does a candidate with those of a bundle that are alike; with keys that are all alike there
 * is nothing to choose. A key that is lost, counted twice, or weighted by another row's score shows
 * in each row.
 */
#include <math.h>
#include <string.h>

#include "checkmain.h"
#include "multipole_cases.h"
#include "oracle.h"

/* Rows of q or k become the row of their `group` rows' first one. */
static void repeat_rows(tensors *t, operand which, int64_t group)
{
    for (int64_t b = 0; b < t->full.batch; b++)
        for (int64_t h = 0; h < tensors_heads(t, which); h++)
            for (int64_t i = 0; i < tensors_nrows(t, which, b); i++)
                for (int64_t c = 0; c < tensors_dim(t, which); c++)
                    tensors_put(t, which, b, h, i, c,
                                tensors_get(t, which, b, h, i / group * group, c));
}

/* bf16 products round columns as well. */
static double loosen(const tensors *t, const char *level)
{
    return t->full.dtype == HYPERATTN_BF16 && strstr(level, "bf16") ? 4 : 1;
}

static tensors filled(const multipole_case *c, fill kind)
{
    const hyperattn_problem p = multipole_problem(c);
    tensors t = tensors_new(&p, AT_END);
    tensors_fill(&t, kind, 21);
    return t;
}

static void check_at_all_levels(const multipole_case *c, tensors *t, const hyperattn_params *params,
                                const char *what)
{
    const char *names[8];
    int n = levels_here(names, COUNT(names));
    oracle o = oracle_exact(t);
    for (int level = 0; level < n; level++) {
        const char *why = tensors_run(t, params, names[level], 2);
        why = why ? why : oracle_compare(&o, t, loosen(t, names[level]));
        ck_good_at(why, "%s, %s, %s", c->name, what, names[level]);
    }
    oracle_free(&o);
}

START_TEST(rows_that_are_alike_are_exact)
{
    if (multipole_left_out(_i))
        return;
    const multipole_case *c = &multipole_all.cases[_i];
    hyperattn_params params = multipole_params(c);
    for (int kind = FILL_GAUSS; kind <= FILL_CLUSTERED; kind++) {
        tensors t = filled(c, (fill)kind);
        repeat_rows(&t, T_Q, INT64_MAX);
        check_at_all_levels(c, &t, &params, kind == FILL_GAUSS ? "gauss" : "clustered");
        tensors_free(&t);
    }
}
END_TEST

/* What the bundles' own columns do not see of it: those have the mean of all rows of an era. */
START_TEST(candidates_of_rows_that_are_alike_are_exact)
{
    if (multipole_left_out(_i))
        return;
    multipole_case c = multipole_all.cases[_i];
    if (c.ragged || c.strict || (c.causal && c.nq != c.nk))
        return;
    c.candidates = 1 << 30;
    hyperattn_params params = multipole_params(&c);
    tensors t = filled(&c, FILL_GAUSS);
    repeat_rows(&t, T_Q, c.causal ? (c.leaf ? c.leaf : 256) : 2048);
    check_at_all_levels(&c, &t, &params, "all candidates");
    tensors_free(&t);
}
END_TEST

START_TEST(keys_that_are_alike_are_exact)
{
    if (multipole_left_out(_i))
        return;
    const multipole_case *c = &multipole_all.cases[_i];
    hyperattn_params params = multipole_params(c);
    tensors t = filled(c, FILL_GAUSS);
    repeat_rows(&t, T_K, INT64_MAX);
    check_at_all_levels(c, &t, &params, "keys alike");
    tensors_free(&t);
}
END_TEST

/* Without a mask every key may be selected; with one, a past of as many keys is near. */
START_TEST(all_keys_selected_are_exact)
{
    if (multipole_left_out(_i))
        return;
    multipole_case c = multipole_all.cases[_i];
    c.selected = c.candidates = 1 << 30;
    c.depth = -1; /* else those are selected that rows look for */
    hyperattn_params params = multipole_params(&c);
    tensors t = filled(&c, FILL_CLUSTERED);
    check_at_all_levels(&c, &t, &params, "all selected");
    tensors_free(&t);
}
END_TEST

/* At such a depth rows want all of their past. */
#define ALL 60

START_TEST(crowded_rows_are_exact)
{
    if (multipole_left_out(_i))
        return;
    multipole_case c = multipole_all.cases[_i];
    c.depth = ALL;
    hyperattn_params params = multipole_params(&c);
    tensors t = filled(&c, FILL_GAUSS);
    check_at_all_levels(&c, &t, &params, "crowded");
    tensors_free(&t);
}
END_TEST

/* Scores of some hundreds: a spread that grows without bound would drown all other keys. */
START_TEST(large_scores_stay_finite)
{
    if (multipole_left_out(_i))
        return;
    multipole_case c = multipole_all.cases[_i];
    if (c.dtype != HYPERATTN_F32)
        return;
    hyperattn_params params = multipole_params(&c);
    hyperattn_problem p = multipole_problem(&c);
    p.softmax_scale = 30;
    tensors t = tensors_new(&p, AT_END);
    tensors_fill(&t, FILL_GAUSS, 22);
    ck_good_at(tensors_run(&t, &params, NULL, 2), "%s", c.name);
    for (int64_t row = 0; row < t.rows; row++)
        ck_assert_msg(!isnan(((const float *)t.lse.data)[row]), "%s: lse of row %lld", c.name,
                      (long long)row);
    for (int64_t at = 0; at < t.elements[T_OUT] && !c.strided; at++)
        ck_assert_msg(isfinite(element_get(t.mem[T_OUT].data, at, c.dtype)), "%s: element %lld",
                      c.name, (long long)at);
    tensors_free(&t);
}
END_TEST

int main(void)
{
    if (emulated())
        puts("reduced: every fourth case of multipole_cases.c");
    TCase *topic = topic_begin("multipole");
    tcase_add_loop_test(topic, rows_that_are_alike_are_exact, 0, multipole_all.n);
    tcase_add_loop_test(topic, candidates_of_rows_that_are_alike_are_exact, 0, multipole_all.n);
    tcase_add_loop_test(topic, keys_that_are_alike_are_exact, 0, multipole_all.n);
    tcase_add_loop_test(topic, all_keys_selected_are_exact, 0, multipole_all.n);
    tcase_add_loop_test(topic, crowded_rows_are_exact, 0, multipole_all.n);
    tcase_add_loop_test(topic, large_scores_stay_finite, 0, multipole_all.n);
    return topic_end();
}
