/* SPDX-License-Identifier: Apache-2.0
 *
 * MULTIPOLE's gradients. Where it is exact, they are those of exact attention: with all keys
 * selected, and with all keys private, of which nothing must be left in the columns that stood for
 * them. Everywhere they are the slopes of forward: of values at once, for forward is linear in them;
 * of queries and keys along directions that leave alone what steers the choices and the weights of
 * cells. Each test runs once per level.
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
    tensors_fill(&t, kind, 31);
    tensors_fill_dout(&t, 32);
    return t;
}

static const char *run_both(tensors *t, const hyperattn_params *params, const char *level,
                            int nthreads)
{
    const char *why = tensors_run(t, params, level, nthreads);
    return why ? why : tensors_run_backward(t, params, level, nthreads);
}

/* ||got - want|| / ||want|| of a gradient: 0 for q, 1 for k, 2 for v. */
static double grad_error(const grad_oracle *g, const tensors *t, int part)
{
    const operand which = (operand)(T_DQ + part);
    double off = 0, all = 0;
    for (int64_t b = 0; b < t->full.batch; b++)
        for (int64_t h = 0; h < tensors_heads(t, which); h++)
            for (int64_t i = 0; i < tensors_nrows(t, which, b); i++)
                for (int64_t c = 0; c < tensors_dim(t, which); c++) {
                    double want = g->value[part][tensors_at(t, which, b, h, i) + c];
                    double got = tensors_get(t, which, b, h, i, c);
                    off += (got - want) * (got - want);
                    all += want * want;
                }
    return all > 0 ? sqrt(off / all) : sqrt(off);
}

/* ---- where it is exact ----------------------------------------------------------------------- */

/* bf16 products round what they multiply; all other arithmetic is f32. */
static grad_rule rule_of(hyperattn_dtype dtype, const char *level)
{
    return dtype == HYPERATTN_BF16 && strstr(level, "bf16") ? GRAD_PLAIN : GRAD_F32;
}

START_TEST(gradients_of_selected_keys_are_exact)
{
    for (int n = 0; n < multipole_all.n; n += emulated() ? 3 : 1) {
        multipole_case c = multipole_all.cases[n];
        c.selected = c.candidates = 1 << 30;
        hyperattn_params params = multipole_params(&c);
        tensors t = filled(&c, FILL_CLUSTERED);
        ck_good_at(run_both(&t, &params, levels[_i], 2), "%s", c.name);
        pattern p = pattern_exact(&t);
        grad_oracle g = grad_oracle_of(&t, &p, NULL);
        grad_rule rule = rule_of(c.dtype, levels[_i]);
        if (rule == GRAD_PLAIN)
            grad_oracle_plain(&g, &t, &p);
        ck_good_at(grad_compare(&g, &t, rule, 1), "%s", c.name);
        grad_oracle_free(&g);
        pattern_free(&p);
        tensors_free(&t);
    }
}
END_TEST

/* Errors of a case at some depth, or without private keys. */
static void errors_at(const multipole_case *of, float depth, const char *level, double error[3])
{
    multipole_case c = *of;
    c.depth = depth;
    hyperattn_params params = multipole_params(&c);
    tensors t = filled(&c, FILL_GAUSS);
    ck_good_at(run_both(&t, &params, level, 2), "%s", c.name);
    pattern p = pattern_exact(&t);
    grad_oracle g = grad_oracle_of(&t, &p, NULL);
    for (int part = 0; part < 3; part++)
        error[part] = grad_error(&g, &t, part);
    grad_oracle_free(&g);
    pattern_free(&p);
    tensors_free(&t);
}

/* At such a depth each key that is not selected is private: there is room for them. */
START_TEST(gradients_of_private_keys_are_exact)
{
    int tried = 0;
    for (int n = 0; n < multipole_all.n; n += emulated() ? 3 : 1) {
        const multipole_case *c = &multipole_all.cases[n];
        double most = c->dtype == HYPERATTN_F32 ? 1e-5 : c->dtype == HYPERATTN_F16 ? 2e-3 : 1e-2;
        double with[3], without[3];
        if (c->nk > 1000)
            continue;
        errors_at(c, 40, levels[_i], with);
        errors_at(c, -1, levels[_i], without);
        for (int part = 0; part < 3; part++)
            ck_assert_msg(with[part] < most, "%s: error %g of d%c", c->name, with[part],
                          "qkv"[part]);
        tried += without[0] > 10 * most && without[1] > 10 * most && without[2] > 10 * most;
    }
    ck_assert_int_ge(tried, emulated() ? 3 : 10);
}
END_TEST

/* ---- slopes of values ------------------------------------------------------------------------ */

/* sum dout out, over all rows. */
static double loss_of(const tensors *t)
{
    double loss = 0;
    for (int64_t b = 0; b < t->full.batch; b++)
        for (int64_t h = 0; h < t->full.nheads; h++)
            for (int64_t i = 0; i < tensors_nrows(t, T_OUT, b); i++)
                for (int64_t c = 0; c < t->full.head_dim_v; c++)
                    loss += tensors_get(t, T_OUT, b, h, i, c) * tensors_get(t, T_DOUT, b, h, i, c);
    return loss;
}

/* Forward of v = 0 but for key j of head h has the loss dv_j.v_j: of some keys, and of all. */
static const char *check_values(tensors *t, const hyperattn_params *params, const char *level,
                                double tolerance)
{
    const char *why = run_both(t, params, level, 2);
    int64_t heads = t->full.nheads_kv;
    rng r = rng_new(4);
    for (int probe = 0; probe < 24 && !why; probe++) {
        double along = 0, size = 0;
        int64_t b = rng_below(&r, t->full.batch), kv = rng_below(&r, heads);
        int64_t nk = tensors_nrows(t, T_V, b), key = nk ? rng_below(&r, nk) : 0;
        memset(t->mem[T_V].data, 0, t->mem[T_V].size);
        for (int64_t j = 0; j < nk; j++)
            for (int64_t c = 0; c < t->full.head_dim_v && (probe == 0 || j == key); c++) {
                tensors_put(t, T_V, b, kv, j, c, rng_gauss(&r));
                double term = tensors_get(t, T_V, b, kv, j, c) * tensors_get(t, T_DV, b, kv, j, c);
                along += term;
                size += fabs(term);
            }
        why = tensors_run(t, params, level, 2);
        double loss = loss_of(t);
        if (!why && fabs(loss - along) > tolerance * (size + fabs(loss)))
            why = failure("sequence %lld, head %lld, key %lld%s: the loss is %.9g, dv says %.9g",
                          (long long)b, (long long)kv, (long long)key, probe ? "" : " and all",
                          loss, along);
    }
    return why;
}

START_TEST(gradients_of_values_are_forwards_weights)
{
    for (int n = 0; n < multipole_all.n; n += emulated() ? 5 : 1) {
        const multipole_case *c = &multipole_all.cases[n];
        hyperattn_params params = multipole_params(c);
        tensors t = filled(c, FILL_GAUSS);
        double tolerance = c->dtype == HYPERATTN_F32   ? 2e-4
                           : c->dtype == HYPERATTN_F16 ? 5e-3
                                                       : 4e-2;
        ck_good_at(check_values(&t, &params, levels[_i], tolerance), "%s", c->name);
        tensors_free(&t);
    }
}
END_TEST

int main(void)
{
    TCase *topic = topic_begin("backward_multipole");
    int n = topic_levels();
    tcase_add_loop_test(topic, gradients_of_selected_keys_are_exact, 0, n);
    tcase_add_loop_test(topic, gradients_of_private_keys_are_exact, 0, n);
    tcase_add_loop_test(topic, gradients_of_values_are_forwards_weights, 0, n);
    return topic_end();
}
