/* SPDX-License-Identifier: Apache-2.0
 *
 * MULTIPOLE against float64, where it is far from exact attention: with the choices of the call,
 * each number that forward and backward write is, to rounding, what the definition of columns and
 * private keys gives. Choices are tested elsewhere, by what they are worth.
 */
#include <math.h>
#include <string.h>

#include "checkmain.h"
#include "multipole_cases.h"
#include "multipole_oracle.h"

/* Pasts that are much longer than what is selected of them, in several eras. */
static const multipole_case long_cases[] = {
    {"eras", 4500, 4500, 1, 1, 16, 16, .causal = 1, .leaf = 256, .window = 1, .sinks = 16,
     .selected = 16, .candidates = 128, .cell = 32, .far_cell = 256},
    {"defaults, causal", 4200, 4200, 1, 1, 16, 20, .causal = 1, .sinks = 16, .depth = 4},
    {"defaults, half crowded", 500, 3500, 2, 1, 16, 16, .sinks = 16, .depth = 6},
    {"no private keys", 1500, 1500, 4, 2, 24, 40, .causal = 1, .leaf = 128, .window = 200,
     .sinks = 5, .selected = 64, .candidates = 256, .depth = -1, .cell = 32, .far_cell = 128},
    {"no private keys, not causal", 2200, 1600, 2, 1, 16, 16, .selected = 40, .candidates = 128,
     .depth = -1, .cell = 16, .far_cell = 256},
    {"more keys", 600, 4500, 2, 1, 16, 16, .causal = 1, .leaf = 384, .window = 128, .sinks = 130,
     .selected = 200, .candidates = 64, .depth = 6, .cell = 64, .far_cell = 512},
    {"more queries", 3500, 2300, 1, 1, 16, 16, .causal = 1, .leaf = 128, .window = 1, .sinks = 4,
     .selected = 100, .candidates = 64, .cell = 8, .far_cell = 1 << 20},
    {"bf16", 1600, 1600, 2, 1, 64, 64, .causal = 1, .leaf = 256, .window = 1, .sinks = 16,
     .selected = 32, .candidates = 128, .cell = 32, .far_cell = 128, .dtype = HYPERATTN_BF16},
    {"eras of an epoch", 3900, 20700, 1, 1, 8, 8, .causal = 1, .leaf = 512, .window = 1,
     .sinks = 16, .selected = 64, .candidates = 128, .depth = 6, .cell = 64, .far_cell = 1024},
    {"eras of an epoch, not causal", 16500, 900, 1, 1, 8, 8, .sinks = 16, .selected = 64,
     .candidates = 128, .depth = 4, .cell = 32, .far_cell = 128},
    {"strict, eras of an epoch", 3900, 20700, 1, 1, 8, 8, .causal = 1, .leaf = 512, .window = 1,
     .sinks = 16, .selected = 64, .candidates = 128, .depth = 6, .cell = 64, .far_cell = 1024,
     .strict = 1},
};

static tensors filled(const multipole_case *c, fill kind)
{
    const hyperattn_problem p = multipole_problem(c);
    tensors t = tensors_new(&p, AT_END);
    tensors_fill(&t, kind, 41);
    tensors_fill_dout(&t, 42);
    return t;
}

/* The best one whose arithmetic is f32. */
static const char *best_level(hyperattn_dtype dtype)
{
    static const char *names[8];
    int n = levels_here(names, COUNT(names));
    while (dtype == HYPERATTN_BF16 && strstr(names[n - 1], "bf16"))
        n--;
    return names[n - 1];
}

/* Rows far from the mean query that hang on columns alone see their roundings magnified. */
#define LOOSEN 4

/* Runs t, and compares it; *m: what the columns were, to be freed, with the choices that it is
 * made of. */
static const char *compare(tensors *t, const hyperattn_params *params, const char *level,
                           multipole_choices *choices, multipole_model *m)
{
    *m = (multipole_model){0};
    const char *why = multipole_run(t, params, level, choices);
    why = why ? why : multipole_choices_check(choices, t);
    if (why)
        return why;
    *m = multipole_model_of(t, params, choices);
    oracle o = multipole_forward(t, m);
    grad_oracle g = multipole_gradients(t, m, NULL);
    why = m->ambiguous ? failure("%lld decisions are in doubt", (long long)m->ambiguous)
                       : oracle_compare(&o, t, LOOSEN);
    why = why ? why : grad_compare(&g, t, GRAD_F32, LOOSEN);
    grad_oracle_free(&g);
    oracle_free(&o);
    return why;
}

START_TEST(numbers_are_those_of_float64)
{
    const multipole_case *c = &multipole_all.cases[_i];
    if (multipole_left_out(_i))
        return;
    hyperattn_params params = multipole_params(c);
    for (int kind = FILL_GAUSS; kind <= FILL_CLUSTERED; kind++) {
        const char *level = kind == FILL_GAUSS ? "ref" : best_level(c->dtype);
        multipole_choices choices;
        multipole_model m;
        tensors t = filled(c, (fill)kind);
        ck_good_at(compare(&t, &params, level, &choices, &m), "%s, %s", c->name, level);
        multipole_model_free(&m);
        multipole_choices_free(&choices);
        tensors_free(&t);
    }
}
END_TEST

START_TEST(numbers_of_long_pasts_are_those_of_float64)
{
    const multipole_case *c = &long_cases[_i];
    if (multipole_left_out(_i))
        return;
    hyperattn_params params = multipole_params(c);
    multipole_choices choices;
    multipole_model m;
    tensors t = filled(c, FILL_CLUSTERED);
    ck_good_at(compare(&t, &params, best_level(c->dtype), &choices, &m), "%s", c->name);
    ck_assert_msg(m.columns > 0 && m.merged > 0, "%s: no columns", c->name);
    ck_assert_msg(c->depth < 0 || m.taken > 0, "%s: no selected key in a merged cell", c->name);
    ck_assert_msg((c->depth < 0) == (m.private == 0), "%s: %lld private keys", c->name,
                  (long long)m.private);
    ck_assert_msg(!strstr(c->name, "crowded") || m.crowded > 0, "%s: no bundle is", c->name);
    multipole_model_free(&m);
    multipole_choices_free(&choices);
    tensors_free(&t);
}
END_TEST

/* ---- the oracle's gradients ------------------------------------------------------------------ */

/* sum dout out, in float64. */
static double loss_of(const tensors *t, const multipole_model *m)
{
    double loss = 0;
    oracle o = multipole_forward(t, m);
    for (int64_t b = 0; b < t->full.batch; b++)
        for (int64_t h = 0; h < t->full.nheads; h++)
            for (int64_t i = 0; i < tensors_nrows(t, T_OUT, b); i++)
                for (int64_t c = 0; c < o.dv; c++)
                    loss += o.out[tensors_row(t, b, h, i) * o.dv + c] *
                            tensors_get(t, T_DOUT, b, h, i, c);
    oracle_free(&o);
    return loss;
}

/* Moves a tensor from x to x + step (a random direction); returns what its gradient says that the
 * loss changes by. */
static double move(tensors *t, operand part, const float *x, double step, const grad_oracle *g)
{
    float *to = (float *)t->mem[part].data;
    rng r = rng_new(part);
    double along = 0;
    for (int64_t at = 0; at < t->elements[part]; at++) {
        to[at] = (float)((double)x[at] + step * rng_gauss(&r));
        along += ((double)to[at] - (double)x[at]) * g->value[part][at];
    }
    return along;
}

static const multipole_case moved[] = {
    {"causal", 700, 700, 2, 1, 12, 8, .causal = 1, .leaf = 128, .window = 1, .sinks = 3,
     .selected = 16, .candidates = 32, .cell = 16, .far_cell = 64},
    {"not causal", 300, 500, 2, 2, 12, 14, .selected = 16, .candidates = 32, .cell = 8,
     .far_cell = 64},
};

/* With terms, weights and columns' logarithms as they are. */
START_TEST(the_oracles_gradients_are_its_slopes)
{
    const multipole_case *c = &moved[_i];
    hyperattn_params params = multipole_params(c);
    multipole_choices choices;
    multipole_model m;
    tensors t = filled(c, FILL_GAUSS);
    ck_good_at(compare(&t, &params, best_level(c->dtype), &choices, &m), "%s", c->name);
    ck_assert(m.taken > 0 && m.private > 0);
    oracle o = multipole_forward(&t, &m);
    grad_oracle g = multipole_gradients(&t, &m, &o);
    for (int part = T_Q; part <= T_V; part++) {
        size_t size = t.mem[part].size;
        float *x = memcpy(malloc(size), t.mem[part].data, size);
        double along = move(&t, (operand)part, x, 1e-3, &g), high = loss_of(&t, &m);
        along -= move(&t, (operand)part, x, -1e-3, &g);
        double slope = high - loss_of(&t, &m);
        memcpy(t.mem[part].data, x, size);
        free(x);
        ck_assert_msg(fabs(slope - along) < 1e-5 * fabs(along),
                      "%s: the loss moves by %.9g along %c, its gradient says %.9g", c->name, slope,
                      "qkv"[part], along);
    }
    grad_oracle_free(&g);
    oracle_free(&o);
    multipole_model_free(&m);
    multipole_choices_free(&choices);
    tensors_free(&t);
}
END_TEST

int main(void)
{
    if (emulated())
        puts("reduced: every fourth case");
    TCase *topic = topic_begin("multipole_oracle");
    tcase_add_loop_test(topic, numbers_are_those_of_float64, 0, multipole_all.n);
    tcase_add_loop_test(topic, numbers_of_long_pasts_are_those_of_float64, 0, COUNT(long_cases));
    tcase_add_loop_test(topic, the_oracles_gradients_are_its_slopes, 0, COUNT(moved));
    return topic_end();
}
