/* SPDX-License-Identifier: Apache-2.0
 *
 * MULTIPOLE's gradients. Where it is exact, they are those of exact attention: with all keys
 * selected, and with all keys private, of which nothing must be left in the columns that stood for
 * them. Everywhere they are the slopes of forward: of values as they are, for forward is linear in
 * them; of queries and keys along directions that leave alone what steers the choices and the
 * weights of cells.
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

static void run_both(tensors *t, const hyperattn_params *params, const char *level)
{
    ck_good(tensors_run(t, params, level, 2));
    ck_good(tensors_run_backward(t, params, level, 2));
}

/* ||got - want|| / ||want|| of the gradients of q, k and v. */
typedef struct errors {
    double of[3];
} errors;

static errors errors_of(const tensors *t, const grad_oracle *g)
{
    errors e;
    for (int part = 0; part < 3; part++) {
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
        e.of[part] = all > 0 ? sqrt(off / all) : sqrt(off);
    }
    return e;
}

static errors run_for_errors(tensors *t, const hyperattn_params *params)
{
    run_both(t, params, NULL);
    pattern p = pattern_exact(t);
    grad_oracle g = grad_oracle_of(t, &p, NULL);
    const errors e = errors_of(t, &g);
    grad_oracle_free(&g);
    pattern_free(&p);
    return e;
}

/* ---- where it is exact ----------------------------------------------------------------------- */

/* bf16 products round what they multiply; all other arithmetic is f32. */
static grad_rule rule_of(hyperattn_dtype dtype, const char *level)
{
    return dtype == HYPERATTN_BF16 && strstr(level, "bf16") ? GRAD_PLAIN : GRAD_F32;
}

START_TEST(gradients_of_selected_keys_are_exact)
{
    if (multipole_left_out(_i))
        return;
    const char *names[8];
    int n = levels_here(names, COUNT(names));
    multipole_case c = multipole_all.cases[_i];
    c.selected = c.candidates = 1 << 30;
    c.depth = -1;
    hyperattn_params params = multipole_params(&c);
    tensors t = filled(&c, FILL_CLUSTERED);
    pattern p = pattern_exact(&t);
    for (int level = 0; level < n; level++) {
        grad_rule rule = rule_of(c.dtype, names[level]);
        run_both(&t, &params, names[level]);
        grad_oracle g = grad_oracle_of(&t, &p, NULL);
        if (rule == GRAD_PLAIN)
            grad_oracle_plain(&g, &t, &p);
        ck_good_at(grad_compare(&g, &t, rule, 1), "%s, %s", c.name, names[level]);
        grad_oracle_free(&g);
    }
    pattern_free(&p);
    tensors_free(&t);
}
END_TEST

/* Cases that are estimated, and far from exact. */
static const int estimated_cases[] = {0, 2, 4, 11, 12, 15, 16, 21, 22, 23, 25, 26, 27,
                                      28, 29, 30, 31};

/* At such a depth rows want all of their past. */
START_TEST(gradients_of_crowded_rows_are_exact)
{
    const multipole_case c = multipole_all.cases[estimated_cases[_i]];
    double most = c.dtype == HYPERATTN_F32 ? 1.2e-6 : c.dtype == HYPERATTN_F16 ? 4.5e-4 : 1e-2;
    tensors t = filled(&c, FILL_GAUSS);
    hyperattn_params params = multipole_params(&c);
    params.private_depth = 60;
    const errors with = run_for_errors(&t, &params);
    params.private_depth = -1;
    const errors without = run_for_errors(&t, &params);
    for (int part = 0; part < 3; part++) {
        ck_assert_msg(with.of[part] < most, "%s: error %g of d%c", c.name, with.of[part],
                      "qkv"[part]);
        ck_assert_msg(without.of[part] > 0.1, "%s: d%c is exact anyway", c.name,
                      "qkv"[part]);
    }
    tensors_free(&t);
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

/* Forward of v = 0 but for one key has the loss dv_j.v_j; the first probe is of all keys. */
static void probe_value(tensors *t, const hyperattn_params *params, int probe, rng *r,
                        double tolerance, const char *name)
{
    double along = 0, size = 0;
    int64_t b = rng_below(r, t->full.batch), kv = rng_below(r, t->full.nheads_kv);
    int64_t nk = tensors_nrows(t, T_V, b), key = nk ? rng_below(r, nk) : 0;
    memset(t->mem[T_V].data, 0, t->mem[T_V].size);
    for (int64_t j = 0; j < nk; j++)
        for (int64_t c = 0; c < t->full.head_dim_v && (probe == 0 || j == key); c++) {
            tensors_put(t, T_V, b, kv, j, c, rng_gauss(r));
            double term = tensors_get(t, T_V, b, kv, j, c) * tensors_get(t, T_DV, b, kv, j, c);
            along += term;
            size += fabs(term);
        }
    ck_good(tensors_run(t, params, NULL, 2));
    double loss = loss_of(t);
    ck_assert_msg(fabs(loss - along) <= tolerance * (1 + size),
                  "%s: sequence %lld, head %lld, key %lld%s: the loss is %.9g, dv says %.9g", name,
                  (long long)b, (long long)kv, (long long)key, probe ? "" : " and all others", loss,
                  along);
}

START_TEST(gradients_of_values_are_forwards_weights)
{
    if (multipole_left_out(_i))
        return;
    const multipole_case *c = &multipole_all.cases[_i];
    hyperattn_params params = multipole_params(c);
    tensors t = filled(c, FILL_GAUSS);
    rng r = rng_new(4);
    double tolerance = c->dtype == HYPERATTN_F32 ? 6e-7
                       : c->dtype == HYPERATTN_F16 ? 2e-4 : dtype_eps(c->dtype);
    run_both(&t, &params, NULL);
    for (int probe = 0; probe < (emulated() ? 3 : 24); probe++)
        probe_value(&t, &params, probe, &r, tolerance, c->name);
    tensors_free(&t);
}
END_TEST

/* ---- slopes of queries and keys -------------------------------------------------------------- */

/* Rows and keys that keep their places when they move a little. BAND sorts the rows into bundles:
 * every fourth row of a leaf has the same number there, far from the others'. LEVEL sorts the keys
 * of a long stretch into cells of 128, which are short stretches too. Rows of a bundle come in
 * pairs, with opposite numbers in the columns before FREE: these cancel in each mean, so that keys
 * which move there change no cell's weights, and rows which move in opposite ways change no mean.
 * Each row wants the keys that have much of its column WANTED. */
enum { WANTED = 6, FREE = 8, LEVEL = FREE, BAND, DIM = 12, CELL = 128 };

static double sign_of(int64_t row)
{
    return row / 4 % 2 ? -1 : 1;
}

/* Numbers that the rows of a bundle, or of a pair, share. */
static rng bundle_rng(int64_t h, int64_t row)
{
    return rng_new((uint64_t)(h * 8192 + row / 256 * 4 + row % 4));
}

static rng pair_rng(int64_t h, int64_t row, uint64_t seed)
{
    return rng_new(seed + (uint64_t)(h * 8192 + row / 8 * 4 + row % 4));
}

static void fill_rows(tensors *t)
{
    for (int64_t h = 0; h < t->full.nheads; h++)
        for (int64_t i = 0; i < t->full.seqlen_q; i++) {
            rng pair = pair_rng(h, i, 1 << 20), bundle = bundle_rng(h, i);
            for (int64_t c = 0; c < DIM; c++) {
                double x = c < FREE ? sign_of(i) * rng_gauss(&pair) : rng_gauss(&bundle);
                if (c >= WANTED && c < FREE)
                    x = c == WANTED + i / 8 % 2 ? 4 * sign_of(i) : 0;
                x = c == LEVEL ? 0.03 * x : c == BAND ? 12 * (double)(i % 4) - 18 : x;
                tensors_put(t, T_Q, 0, h, i, c, x);
            }
        }
}

/* A key that is wanted has a score of about 24 with a quarter of the rows, the others up to 8. */
static void fill_keys(tensors *t, int wanted)
{
    rng r = rng_new(77);
    for (int64_t h = 0; h < t->full.nheads_kv; h++)
        for (int64_t j = 0; j < t->full.seqlen_k; j++) {
            for (int64_t c = 0; c < DIM; c++)
                tensors_put(t, T_K, 0, h, j, c, (c == BAND ? 0.02 : 0.15) * rng_gauss(&r));
            for (int64_t c = WANTED; c < FREE; c++)
                tensors_put(t, T_K, 0, h, j, c, rng_below(&r, 2) ? 0.875 : -0.875);
            if (j >= 10 && j < 10 + wanted)
                tensors_put(t, T_K, 0, h, j, WANTED + j % 2, j / 2 % 2 ? 6 : -6);
            tensors_put(t, T_K, 0, h, j, LEVEL, 6 * (double)(j * 7 % 16) - 45);
        }
}

/* The change of a number when tensor `part` moves. */
static double direction_of(int part, int64_t h, int64_t i, int64_t c)
{
    rng pair = pair_rng(h, i, 2 << 20), own = rng_new((uint64_t)((h * 8192 + i) * 64 + c));
    double x = 0;
    for (int64_t skip = 0; skip <= c; skip++)
        x = rng_gauss(&pair);
    switch (part) {
    case T_Q: return (c == LEVEL ? 0.03 : 1) * sign_of(i) * x;
    case T_K: return c < FREE ? rng_gauss(&own) : 0;
    default: return rng_gauss(&own);
    }
}

/* Moves a tensor; returns what its gradient says that the loss changes by. */
static double move(tensors *t, int part, double step)
{
    double along = 0;
    for (int64_t h = 0; h < tensors_heads(t, (operand)part); h++)
        for (int64_t i = 0; i < tensors_nrows(t, (operand)part, 0); i++)
            for (int64_t c = 0; c < tensors_dim(t, (operand)part); c++) {
                double x = direction_of(part, h, i, c);
                tensors_put(t, (operand)part, 0, h, i, c,
                            tensors_get(t, (operand)part, 0, h, i, c) + step * x);
                along += step * x * tensors_get(t, (operand)(T_DQ + part), 0, h, i, c);
            }
    return along;
}

static void check_slope(const tensors *t, const hyperattn_params *params, int part,
                        const char *name)
{
    const double step = 4e-3; /* large beside the rounding of a loss in f32 */
    tensors moved = *t;
    size_t size = t->mem[part].size;
    void *before = memcpy(malloc(size), t->mem[part].data, size);
    double along = move(&moved, part, step);
    ck_good(tensors_run(&moved, params, NULL, 2));
    double high = loss_of(&moved);
    memcpy(t->mem[part].data, before, size);
    move(&moved, part, -step);
    ck_good(tensors_run(&moved, params, NULL, 2));
    double slope = (high - loss_of(&moved)) / 2;
    memcpy(t->mem[part].data, before, size);
    free(before);
    ck_assert_msg(fabs(slope - along) < 1e-3 * fabs(along),
                  "%s: the loss moves by %.6g along %c, its gradient says %.6g", name, slope,
                  "qkv"[part], along);
}

/* Two eras with a mask, four bundles a head without. Depths: guesses of scores are coarse, but what
 * they take for near to the wanted keys by mistake weighs nothing. */
static const multipole_case scenes[] = {
    {"causal", 3072, 3072, 2, 1, DIM, 10, .causal = 1, .leaf = 256, .window = 1, .sinks = 4,
     .selected = 16, .candidates = CELL, .depth = -1, .cell = CELL, .far_cell = 4 * CELL},
    {"causal, private keys", 3072, 3072, 2, 1, DIM, 10, .causal = 1, .leaf = 256, .window = 1,
     .sinks = 4, .selected = 16, .candidates = CELL, .depth = 11, .cell = CELL,
     .far_cell = 4 * CELL},
    {"not causal", 256, 2048, 4, 2, DIM, 14, .sinks = 4, .selected = 16, .candidates = 3 * CELL,
     .depth = -1, .cell = CELL, .far_cell = 4 * CELL},
    {"not causal, private keys", 256, 2048, 4, 2, DIM, 14, .sinks = 4, .selected = 16,
     .candidates = 3 * CELL, .depth = 12, .cell = CELL, .far_cell = 4 * CELL},
};

START_TEST(gradients_are_the_slopes_of_forward)
{
    const multipole_case *c = &scenes[_i];
    hyperattn_problem p = multipole_problem(c);
    p.softmax_scale = 1;
    hyperattn_params params = multipole_params(c);
    tensors t = tensors_new(&p, AT_END);
    tensors_fill(&t, FILL_GAUSS, 3);
    tensors_fill_dout(&t, 4);
    fill_rows(&t);
    fill_keys(&t, c->depth > 0 ? 12 : 0);
    run_both(&t, &params, NULL);
    for (int part = T_Q; part <= T_V; part++)
        check_slope(&t, &params, part, c->name);
    tensors_free(&t);
}
END_TEST

int main(void)
{
    if (emulated())
        puts("reduced: every fourth case of multipole_cases.c");
    TCase *topic = topic_begin("backward_multipole");
    tcase_add_loop_test(topic, gradients_of_selected_keys_are_exact, 0, multipole_all.n);
    tcase_add_loop_test(topic, gradients_of_crowded_rows_are_exact, 0, COUNT(estimated_cases));
    tcase_add_loop_test(topic, gradients_of_values_are_forwards_weights, 0, multipole_all.n);
    tcase_add_loop_test(topic, gradients_are_the_slopes_of_forward, 0, COUNT(scenes));
    return topic_end();
}
