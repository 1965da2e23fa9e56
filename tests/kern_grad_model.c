/* SPDX-License-Identifier: Apache-2.0
 *
 * backward in float64, as its definition in lib/kernels.h reads, with a bound on what rounding may
 * change. The bounds are made as those of attend in kern_model.c.
 */
#include <float.h>
#include <math.h>

#include "kern_grad.h"

#define U 0x1p-24      /* half the spacing of f32 at 1 */
#define FLOOR 0x1p-122 /* weights and flushed denormals that may be zero instead */

/* A number and the bound of its error. */
typedef struct near_value {
    double x, bound;
} near_value;

/* Sums of products; size: of their magnitudes. */
typedef struct grad_sum {
    double x, size, bound;
} grad_sum;

static struct {
    double in[GRAD_ARRAYS][GRAD_KEYS * GRAD_DIM];
    grad_sum dq[GRAD_ROWS][GRAD_DIM], dk[GRAD_KEYS][GRAD_DIM], dv[GRAD_KEYS][GRAD_DIM];
    grad_sum capped[GRAD_ROWS];
} model;

static const double *row_of(const grad_problem *p, grad_array array, int i)
{
    return model.in[array] + i * grad_columns(p, array);
}

/* a_i.b_j, as a register block sums it. */
static near_value dot_of(const grad_problem *p, grad_array a, int i, grad_array b, int j, int pair)
{
    const double *x = row_of(p, a, i), *y = row_of(p, b, j);
    int n = grad_columns(p, a);
    double size = 0, lost = 0;
    near_value dot = {0, 0};
    for (int c = 0; c < n; c++) {
        dot.x += x[c] * y[c];
        size += fabs(x[c] * y[c]);
        if (pair == 2 && (fabs(x[c]) < FLT_MIN || fabs(y[c]) < FLT_MIN))
            lost += fabs(x[c] * y[c]); /* bf16 dot products take denormals as zero */
    }
    dot.bound = U * (n + 4) * size + lost + FLOOR;
    return dot;
}

static near_value score_of(const grad_problem *p, int i, int j, int pair)
{
    near_value s = dot_of(p, GRAD_Q, i, GRAD_K, j, pair);
    s.x = p->scale * s.x + p->logw[j];
    s.bound = p->scale * s.bound + 2 * U * fabs(p->logw[j]);
    return s;
}

static double to_bf16(double x)
{
    uint16_t h;
    element_put(&h, 0, HYPERATTN_BF16, x);
    return element_get(&h, 0, HYPERATTN_BF16);
}

/* The operand that a weight becomes. */
static near_value operand(near_value w, int pair)
{
    if (pair == 1 || !isfinite(w.x))
        return w;
    double x = to_bf16(w.x);
    return (near_value){x, fmax(to_bf16(w.x + w.bound) - x, x - to_bf16(w.x - w.bound)) + FLOOR};
}

static void add(grad_sum *sums, near_value w, const double *x, int n)
{
    for (int c = 0; c < n; c++) {
        sums[c].x += w.x * x[c];
        sums[c].size += fabs(w.x * x[c]);
        sums[c].bound += w.bound * fabs(x[c]);
    }
}

/* One entry of P and dS, and what it adds to the sums. */
static void add_entry(const kern_run *run, const grad_problem *p, int i, int j)
{
    static const double one = 1;
    int pair = run->arith->pair;
    near_value s = score_of(p, i, j, pair), y = dot_of(p, GRAD_DOUT, i, GRAD_V, j, pair), w, ds;
    int held = p->has_cap && s.x >= p->cap[i];
    int unsure = p->has_cap && fabs(s.x - p->cap[i]) <= s.bound;
    double x = (held ? p->cap[i] : s.x) - p->lse[i];
    w.x = x < -127 - s.bound ? 0 : x > 0 ? 1 : exp2(x);
    /* of huge scores nothing is known but 0 <= w <= 1; 2: the sums of it are rounded too */
    w.bound = fmin(2, (exp2(s.bound) - 1 + U * (fabs(x) + 8)) * w.x + FLOOR);
    if (isinf(x))
        w.bound = 0; /* the row's lse is Inf, or the key's weight 0 */
    y.x -= p->delta[i];
    y.bound += U * fabs(y.x);
    ds.x = w.x * y.x;
    ds.bound = w.x * y.bound + fabs(y.x) * w.bound + w.bound * y.bound + U * fabs(ds.x);
    if (held || unsure) {
        near_value slope = {held ? y.x : 0, unsure ? fabs(y.x) + y.bound : y.bound};
        add(&model.capped[i], slope, &one, 1);
        ds = (near_value){held ? 0 : ds.x, unsure ? fabs(w.x * y.x) + ds.bound : 0};
    }
    w = operand(w, pair);
    ds = operand(ds, pair);
    add(model.dv[j], w, row_of(p, GRAD_DOUT_SUM, i), p->dv);
    add(model.dk[j], ds, row_of(p, GRAD_Q_SUM, i), p->head_dim);
    add(model.dq[i], ds, row_of(p, GRAD_K_SUM, j), p->head_dim);
}

static void start(grad_sum (*sums)[GRAD_DIM], const float (*from)[GRAD_DIM], int n, int columns)
{
    for (int i = 0; i < n; i++)
        for (int c = 0; c < columns; c++)
            sums[i][c] = (grad_sum){from[i][c], fabs((double)from[i][c]), 0};
}

/* terms: of a sum, each of which may be rounded. */
static void compare(kern_worst *w, const char *what, grad_sum (*sums)[GRAD_DIM],
                    const float (*got)[GRAD_DIM], int n, int columns, int terms)
{
    for (int i = 0; i < n; i++)
        for (int c = 0; c < columns; c++) {
            const grad_sum *s = &sums[i][c];
            kern_near(w, what, i, c, s->x, got[i][c], s->bound + U * (2 * terms + 8) * s->size);
        }
}

const char *grad_check(const kern_run *run, const grad_problem *p, const grad_state *from,
                       const grad_state *state)
{
    int rows = grad_rows(p), keys = grad_keys(p);
    kern_worst w = {0};
    for (int a = 0; a < GRAD_ARRAYS; a++) {
        int n = grad_of_keys((grad_array)a) ? keys : rows;
        for (int i = 0; i < n * grad_columns(p, (grad_array)a); i++)
            model.in[a][i] = element_get(p->data[a], i, p->dtype);
    }
    start(model.dq, from->dq, rows, p->head_dim);
    start(model.dk, from->dk, keys, p->head_dim);
    start(model.dv, from->dv, keys, p->dv);
    for (int i = 0; i < rows; i++) {
        model.capped[i] = (grad_sum){from->capped[i], fabs((double)from->capped[i]), 0};
        for (int j = 0; j < keys && (!p->has_limit || j < p->limit[i]); j++)
            add_entry(run, p, i, j);
    }
    compare(&w, "dq", model.dq, state->dq, rows, p->head_dim, keys);
    compare(&w, "dk", model.dk, state->dk, keys, p->head_dim, rows);
    compare(&w, "dv", model.dv, state->dv, keys, p->dv, rows);
    for (int i = 0; i < rows && p->has_cap; i++)
        kern_near(&w, "capped", 0, i, model.capped[i].x, state->capped[i],
                  model.capped[i].bound + U * (2 * keys + 8) * model.capped[i].size);
    return kern_verdict(&w);
}

void grad_fill_lse(grad_problem *p, rng *r)
{
    for (int a = GRAD_Q; a <= GRAD_K; a += GRAD_K - GRAD_Q)
        for (int i = 0; i < (a == GRAD_K ? grad_keys(p) : grad_rows(p)) * p->head_dim; i++)
            model.in[a][i] = element_get(p->data[a], i, p->dtype);
    for (int i = 0; i < grad_rows(p); i++) {
        /* other keys' share; less than nothing where rounding has spoilt a row */
        double m = -INFINITY, l = 0, extra = rng_below(r, 6) ? 3 * rng_uniform(r) : -4;
        for (int j = 0; j < grad_keys(p) && (!p->has_limit || j < p->limit[i]); j++) {
            double s = score_of(p, i, j, 1).x, top;
            s = p->has_cap && s > p->cap[i] ? p->cap[i] : s;
            if (s == -INFINITY)
                continue;
            top = fmax(m, s);
            l = l * exp2(m - top) + exp2(s - top);
            m = top;
        }
        p->lse[i] = l > 0 ? (float)(m + log2(l) + extra) : INFINITY;
    }
}
