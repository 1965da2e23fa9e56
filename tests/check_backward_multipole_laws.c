/* SPDX-License-Identifier: Apache-2.0
 *
 * What MULTIPOLE's gradients promise apart from their values: the same bits for any number of
 * threads, nothing from what a row does not see, a NaN that goes no further than it must, and errors
 * that are small where keys are alike in groups.
 */
#include <math.h>
#include <string.h>

#include "checkmain.h"
#include "grad_oracle.h"
#include "multipole_cases.h"

static tensors filled(const multipole_case *c, fill kind)
{
    const hyperattn_problem p = multipole_problem(c);
    tensors t = tensors_new(&p, AT_END);
    tensors_fill(&t, kind, 12);
    tensors_fill_dout(&t, 13);
    return t;
}

static void run(tensors *t, const hyperattn_params *params, int nthreads)
{
    ck_good(tensors_run(t, params, NULL, nthreads));
    ck_good(tensors_run_backward(t, params, NULL, nthreads));
}

/* ---- threads --------------------------------------------------------------------------------- */

START_TEST(bits_do_not_depend_on_threads)
{
    static const int threads[] = {2, 3, 7};
    const multipole_case *c = &multipole_all.cases[_i];
    hyperattn_params params = multipole_params(c);
    tensors t = filled(c, FILL_CLUSTERED);
    run(&t, &params, 1);
    saved one = tensors_save(&t);
    for (int s = 0; s < COUNT(threads); s++) {
        run(&t, &params, threads[s]);
        ck_good_at(tensors_same_gradients(&t, &one, INT64_MAX, INT64_MAX), "%s, %d threads",
                   c->name, threads[s]);
    }
    saved_free(&one);
    tensors_free(&t);
}
END_TEST

/* ---- causality ------------------------------------------------------------------------------- */

/* Two eras, with private keys. */
static const multipole_case causal = {
    "causal", 2900, 2900, 2, 1, 8, 8, .causal = 1, .leaf = 256, .window = 1, .sinks = 4,
    .selected = 16, .candidates = 128, .cell = 32, .far_cell = 128};

static const double poisons[] = {NAN, INFINITY, -INFINITY, 1e30};

/* Rows of dq depend on the keys that they see alone. */
START_TEST(later_keys_and_values_change_nothing)
{
    static const int64_t last[] = {0, 127, 600, 2047, 2431, 2898};
    hyperattn_params params = multipole_params(&causal);
    tensors t = filled(&causal, FILL_CLUSTERED);
    run(&t, &params, 2);
    saved before = tensors_save(&t);
    for (int s = COUNT(last) - 1; s >= 0; s--) {
        for (int64_t j = last[s] + 1; j < causal.nk; j++) {
            tensors_set_row(&t, T_K, 0, 0, j, poisons[j % 4]);
            tensors_set_row(&t, T_V, 0, 0, j, poisons[(j + s) % 4]);
        }
        run(&t, &params, 2);
        ck_good_at(tensors_same_gradients(&t, &before, last[s] + 1, 0), "keys behind %lld",
                   (long long)last[s]);
    }
    saved_free(&before);
    tensors_free(&t);
}
END_TEST

/* Rows [first, end) of a head's gradient are, to rounding, what they were. */
static void check_unmoved(const tensors *t, const saved *before, operand which, int64_t h,
                          int64_t first, int64_t end, const char *what)
{
    for (int64_t i = first; i < end; i++)
        for (int64_t c = 0; c < tensors_dim(t, which); c++) {
            double is = tensors_get(t, which, 0, h, i, c);
            double was = element_get(before->gradient[which - T_DQ],
                                     tensors_at(t, which, 0, h, i) + c, t->full.dtype);
            ck_assert_msg(fabs(is - was) < 1e-4 * (1 + fabs(was)), "%s: row %lld is %g, was %g",
                          what, (long long)i, is, was);
        }
}

/* A row's dout adds to its own row of dq and to the keys that it sees, and to no others: those of
 * its block are worked one by one then. */
START_TEST(dout_reaches_what_its_row_sees)
{
    static const int64_t rows[] = {5, 300, 1000, 2431, 2890};
    hyperattn_params params = multipole_params(&causal);
    tensors t = filled(&causal, FILL_CLUSTERED);
    for (int s = 0; s < COUNT(rows); s++)
        tensors_set_row(&t, T_DOUT, 0, 1, rows[s], 0);
    run(&t, &params, 2);
    saved before = tensors_save(&t);
    for (int s = 0; s < COUNT(rows); s++) {
        int64_t row = rows[s];
        tensors_set_row(&t, T_DOUT, 0, 1, row, poisons[s % 3]);
        run(&t, &params, 2);
        for (int64_t c = 0; c < 8; c++)
            ck_assert(isnan(tensors_get(&t, T_DQ, 0, 1, row, c)));
        for (int64_t j = 0; j <= row; j++)
            ck_assert_msg(!isfinite(tensors_get(&t, T_DV, 0, 0, j, 0)), "key %lld does not have it",
                          (long long)j);
        check_unmoved(&t, &before, T_DQ, 0, 0, causal.nq, "another head");
        check_unmoved(&t, &before, T_DQ, 1, 0, row, "rows before");
        check_unmoved(&t, &before, T_DQ, 1, row + 1, causal.nq, "rows behind");
        check_unmoved(&t, &before, T_DK, 0, row + 1, causal.nk, "dk of keys behind");
        check_unmoved(&t, &before, T_DV, 0, row + 1, causal.nk, "dv of keys behind");
        tensors_set_row(&t, T_DOUT, 0, 1, row, 0);
    }
    saved_free(&before);
    tensors_free(&t);
}
END_TEST

/* ---- any numbers ----------------------------------------------------------------------------- */

START_TEST(any_numbers_are_taken)
{
    const multipole_case *c = &multipole_all.cases[_i];
    hyperattn_params params = multipole_params(c);
    tensors t = filled(c, FILL_EXTREME);
    run(&t, &params, 2);
    rng r = rng_new((uint64_t)_i);
    static const operand inputs[] = {T_Q, T_K, T_V, T_DOUT};
    for (int which = 0; which < COUNT(inputs); which++)
        for (size_t byte = 0; byte < t.mem[inputs[which]].size; byte++)
            t.mem[inputs[which]].data[byte] = (unsigned char)rng_next(&r);
    run(&t, &params, 2);
    tensors_free(&t);
}
END_TEST

/* More keys that are NaN than a row has room for: rows that see one attend to all exactly. */
START_TEST(a_nan_among_the_keys_is_in_all_that_sees_it)
{
    hyperattn_params params = multipole_params(&causal);
    tensors t = filled(&causal, FILL_CLUSTERED);
    for (int64_t j = 300; j < 1900; j++)
        tensors_set_row(&t, T_K, 0, 0, j, NAN);
    run(&t, &params, 2);
    for (int64_t i = 0; i < causal.nq; i++)
        ck_assert_int_eq(isnan(tensors_get(&t, T_DQ, 0, 1, i, 3)), i >= 300);
    for (int64_t j = 0; j < causal.nk; j++)
        ck_assert(isnan(tensors_get(&t, T_DK, 0, 0, j, 3)));
    tensors_free(&t);
}
END_TEST

/* ---- error ----------------------------------------------------------------------------------- */

/* ||got - want|| / ||want|| of q, k or v, of one head. */
static double error_of(const tensors *t, const grad_oracle *g, int part)
{
    const operand which = (operand)(T_DQ + part);
    double off = 0, all = 0;
    for (int64_t i = 0; i < tensors_nrows(t, which, 0); i++)
        for (int64_t c = 0; c < tensors_dim(t, which); c++) {
            double want = g->value[part][tensors_at(t, which, 0, 0, i) + c];
            double got = tensors_get(t, which, 0, 0, i, c);
            off += (got - want) * (got - want);
            all += want * want;
        }
    return sqrt(off / all);
}

/* Keys around some centres, as forward's test has them. */
START_TEST(errors_are_small_on_clustered_keys)
{
    static const char *const names[] = {"dq", "dk", "dv"};
    static const double most[] = {0.12, 0.06, 0.03};
    multipole_case c = {"error", _i ? 1500 : 900, _i ? 1500 : 900, 1, 1, 16, 16, .causal = _i,
                        .sinks = 16};
    hyperattn_params params = multipole_params(&c), hyper = params;
    tensors t = filled(&c, FILL_CLUSTERED);
    oracle o = oracle_exact(&t);
    pattern p = pattern_exact(&t);
    grad_oracle g = grad_oracle_of(&t, &p, &o);
    double error[3];
    run(&t, &params, 2);
    for (int part = 0; part < 3; part++)
        error[part] = error_of(&t, &g, part);
    hyper.method = HYPERATTN_HYPER;
    hyper.block_size = hyper.sample_size = 64;
    hyper.min_seq_len = 200;
    run(&t, &hyper, 2);
    for (int part = 0; part < 3; part++) {
        double other = error_of(&t, &g, part);
        ck_assert_msg(error[part] < most[part] && error[part] < other / 3,
                      "causal %d: error %g of %s, HyperAttention %g", _i, error[part], names[part],
                      other);
    }
    grad_oracle_free(&g);
    pattern_free(&p);
    oracle_free(&o);
    tensors_free(&t);
}
END_TEST

int main(void)
{
    TCase *topic = topic_begin("backward_multipole_laws");
    tcase_add_loop_test(topic, bits_do_not_depend_on_threads, 0, multipole_all.n);
    tcase_add_test(topic, later_keys_and_values_change_nothing);
    tcase_add_test(topic, dout_reaches_what_its_row_sees);
    tcase_add_loop_test(topic, any_numbers_are_taken, 0, multipole_all.n);
    tcase_add_test(topic, a_nan_among_the_keys_is_in_all_that_sees_it);
    tcase_add_loop_test(topic, errors_are_small_on_clustered_keys, 0, 2);
    return topic_end();
}
