/* SPDX-License-Identifier: Apache-2.0
 *
 * attend in float64, row by row and chunk by chunk as its definition in lib/kernels.h reads, with a
 * bound on what f32 rounding may change.
 */
#include <float.h>
#include <math.h>

#include "kern_tile.h"

/* The bounds count one rounding by U for each term of a sum, and a few more. They hold for the bf16
 * instructions of AArch64 too, which round to odd: to the neighbour whose last bit is set, up to
 * 2 U away. Those add products, which are exact, in pairs: one rounding of the whole for two terms,
 * and the roundings of the pairs' own sums, together no more than one of the whole. */
#define U 0x1p-24      /* half the spacing of f32 at 1 */
#define FLOOR 0x1p-122 /* weights and flushed denormals that may be zero instead */

typedef struct row_model {
    double m, l, m_bound, l_bound;
    double acc[TILE_DIM], size[TILE_DIM], bound[TILE_DIM]; /* size: sum of |weight * value| */
} row_model;

/* One score and the bound of its error. */
typedef struct score {
    double s, bound;
} score;

/* The problem's numbers. */
static struct {
    double q[TILE_ROWS * TILE_DIM], k[TILE_KEYS * TILE_DIM], v[TILE_KEYS * TILE_DIM];
} numbers;

static void get_numbers(double *to, const void *from, int n, hyperattn_dtype dtype)
{
    for (int i = 0; i < n; i++)
        to[i] = element_get(from, i, dtype);
}

/* What f32 would make of a sum that leaves its range. */
static double overflow(double x)
{
    return fabs(x) > FLT_MAX ? copysign(INFINITY, x) : x;
}

static score score_of(const tile_problem *p, int i, int j, int pair)
{
    double dot = 0, size = 0, lost = 0;
    for (int c = 0; c < p->head_dim; c++) {
        double q = numbers.q[i * p->head_dim + c], k = numbers.k[j * p->head_dim + c];
        double term = overflow(q * k);
        dot = overflow(dot + term);
        size += fabs(term);
        if (pair == 2 && (fabs(q) < FLT_MIN || fabs(k) < FLT_MIN))
            lost += fabs(term); /* bf16 dot products take denormals as zero */
    }
    score r = {p->scale * dot + p->logw[j], 0};
    if (isfinite(r.s))
        r.bound = U * ((p->head_dim + 4) * p->scale * size + 2 * fabs(p->logw[j])) +
                  p->scale * lost + FLOOR;
    if (p->has_cap && r.s > p->cap[i])
        r.s = p->cap[i];
    return r;
}

/* Rounds x >= 0 to bf16. */
static double to_bf16(double x)
{
    uint16_t h;
    element_put(&h, 0, HYPERATTN_BF16, x);
    return element_get(&h, 0, HYPERATTN_BF16);
}

/* A weight and its bound, given the relative error that the exponential's argument brings. */
static void add_key(const kern_run *run, const tile_problem *p, row_model *row, int j, double p_j,
                    double relative)
{
    double bound = relative * p_j + FLOOR, weight = p_j;
    row->l += p_j;
    row->l_bound += bound;
    if (run->arith->pair == 2 && !isnan(p_j)) {
        double low = to_bf16(fmax(p_j - bound, 0)), high = to_bf16(p_j + bound);
        weight = to_bf16(p_j);
        bound = fmax(high - weight, weight - low) + FLOOR;
    }
    for (int c = 0; c < p->dv; c++) {
        double v = numbers.v[j * p->dv + c];
        row->acc[c] += weight * v;
        row->size[c] += fabs(weight * v);
        row->bound[c] += bound * fabs(v);
    }
}

/* The state so far shrinks by 2^-drop. */
static void rescale(const tile_problem *p, row_model *row, double drop)
{
    double alpha = exp2(-drop), relative = U * (drop + 8);
    row->l *= alpha;
    row->l_bound = row->l_bound * alpha + row->l * relative + FLOOR;
    for (int c = 0; c < p->dv; c++) {
        row->acc[c] *= alpha;
        row->size[c] *= alpha;
        row->bound[c] = row->bound[c] * alpha + row->size[c] * relative + FLOOR;
    }
}

static void add_chunk(const kern_run *run, const tile_problem *p, row_model *row, int i, int first,
                      int keys)
{
    static score s[TILE_KEYS];
    double top = row->m;
    for (int j = 0; j < keys; j++) {
        s[j] = score_of(p, i, first + j, run->arith->pair);
        top = s[j].s > top ? s[j].s : top; /* a NaN leaves the maximum alone */
        row->m_bound = fmax(row->m_bound, s[j].bound);
    }
    if (top > row->m && row->m != -INFINITY)
        rescale(p, row, top - row->m);
    row->m = top;
    double base = top == -INFINITY ? 0 : top;
    for (int j = 0; j < keys; j++) {
        double x = s[j].s - base, slack = s[j].bound + row->m_bound;
        double relative = exp2(slack) - 1 + U * (fabs(x) + 8);
        if (x + slack < -127)
            add_key(run, p, row, first + j, 0, 0);
        else
            add_key(run, p, row, first + j, exp2(x), relative);
    }
}

static void model_row(const kern_run *run, const tile_problem *p, int i, row_model *row)
{
    *row = (row_model){.m = -INFINITY};
    int first = 0, total = 0;
    for (int t = 0; t < p->chunks; first += p->keys[t++]) {
        int keys = p->has_limit ? p->limit[i] - first : p->keys[t];
        keys = keys < 0 ? 0 : keys < p->keys[t] ? keys : p->keys[t];
        add_chunk(run, p, row, i, first, keys);
        total += keys;
    }
    /* products and sums are rounded one by one in some kernels */
    row->l_bound += U * (2 * total + 8) * row->l;
    for (int c = 0; c < p->dv; c++)
        row->bound[c] += U * (2 * total + 8) * row->size[c] + FLOOR;
}

const char *tile_check(const kern_run *run, const tile_problem *p, const tile_state *state)
{
    static row_model row;
    kern_worst w = {0};
    get_numbers(numbers.q, p->q, p->rows * p->head_dim, p->dtype);
    get_numbers(numbers.k, p->k, tile_total(p) * p->head_dim, p->dtype);
    get_numbers(numbers.v, p->v, tile_total(p) * p->dv, p->dtype);
    for (int i = 0; i < p->rows; i++) {
        model_row(run, p, i, &row);
        if (!isnan(row.l))
            kern_near(&w, "m", 0, i, row.m, state->m[i], row.m_bound);
        /* l and acc are relative to the level's own maximum */
        double factor = isfinite(row.m) && isfinite(state->m[i]) ? exp2(row.m - state->m[i]) : 1;
        kern_near(&w, "l", 0, i, row.l * factor, state->l[i], row.l_bound * factor);
        for (int c = 0; c < p->dv; c++)
            kern_near(&w, "acc", i, c, row.acc[c] * factor, state->acc[i][c],
                      row.bound[c] * factor);
    }
    return kern_verdict(&w);
}
