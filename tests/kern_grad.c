/* SPDX-License-Identifier: Apache-2.0
 *
 * Tests of backward, in both arithmetics.
 */
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kern_grad.h"

static grad_problem problem;
static grad_state state, before; /* after the run, and what it began with */

typedef struct grad_shape {
    hyperattn_dtype dtype;
    int tiles, rows[GRAD_TILES];
    int chunks, keys[GRAD_CHUNKS];
    int head_dim, dv;
    placement at;
    int kind, slope;
} grad_shape;

static void start(const grad_shape *s, rng *r)
{
    problem.dtype = s->dtype;
    problem.at = s->at;
    problem.tiles = s->tiles;
    problem.chunks = s->chunks;
    problem.head_dim = s->head_dim;
    problem.dv = s->dv;
    memcpy(problem.rows, s->rows, sizeof problem.rows);
    memcpy(problem.keys, s->keys, sizeof problem.keys);
    assert(grad_rows(&problem) <= GRAD_ROWS && grad_keys(&problem) <= GRAD_KEYS);
    grad_fill(&problem, r);
}

static void start_sums(float (*sums)[GRAD_DIM], int n, int columns, rng *r, int zero)
{
    for (int i = 0; i < n; i++)
        for (int c = 0; c < columns; c++)
            sums[i][c] = zero ? 0 : (float)rng_gauss(r);
}

/* Sums start at zero, where a wrong bit shows best, or anywhere. */
static const char *run_and_check(const kern_run *run, rng *r)
{
    int zero = rng_below(r, 3) > 0, rows = grad_rows(&problem), keys = grad_keys(&problem);
    start_sums(before.dq, rows, problem.head_dim, r, zero);
    start_sums(before.dk, keys, problem.head_dim, r, zero);
    start_sums(before.dv, keys, problem.dv, r, zero);
    for (int i = 0; i < rows; i++)
        before.capped[i] = zero ? 0 : (float)rng_gauss(r);
    state = before;
    const char *why = grad_run(run, &problem, &state);
    return why ? why : grad_check(run, &problem, &before, &state);
}

static void try_grad(const kern_run *run, kern_case *verify, const grad_shape *s, const char *what)
{
    kern_try(run, verify, s, "%s%s, %d+%d rows, %d+%d keys, head_dim %d, dv %d, %s", what,
             dtype_name(s->dtype), s->rows[0], s->tiles > 1 ? s->rows[1] : 0, s->keys[0],
             s->chunks > 1 ? s->keys[1] : 0, s->head_dim, s->dv, kern_placement(s->at));
}

/* ---- shapes ---------------------------------------------------------------------------------- */

static const char *plain_case(const kern_run *run, rng *r, const void *shape)
{
    start(shape, r);
    grad_fill_lse(&problem, r);
    return run_and_check(run, r);
}

/* Every head_dim, dv, row count and key count, one after the other. */
void kern_grad_shapes(const kern_run *run)
{
    const ha_arith *a = run->arith;
    grad_shape s = {.dtype = kern_own_dtype(run), .tiles = 1, .rows = {7}, .chunks = 1,
                    .keys = {37}};
    for (int d = 0; d < KERN_DIMS; d++)
        for (int n = 0; n < PLACEMENTS; n++) {
            s.head_dim = kern_dims[d];
            s.dv = kern_dims[(5 * d + 3 * n + 1) % KERN_DIMS];
            s.at = (placement)n;
            try_grad(run, plain_case, &s, "");
        }
    s.head_dim = 17;
    s.dv = 33;
    for (s.rows[0] = 1; s.rows[0] <= a->gr; s.rows[0]++) {
        s.at = (placement)(s.rows[0] % PLACEMENTS);
        try_grad(run, plain_case, &s, "");
    }
    s.rows[0] = 5;
    for (s.keys[0] = 1; s.keys[0] <= a->gc; s.keys[0]++) {
        s.at = (placement)(s.keys[0] % PLACEMENTS);
        s.dv = 1 + s.keys[0] % 80;
        try_grad(run, plain_case, &s, "");
    }
    s = (grad_shape){kern_own_dtype(run), 2, {a->gr, 9}, 2, {a->gc, 21}, 72, 96, AT_END, 0, 0};
    try_grad(run, plain_case, &s, "whole tiles, ");
}

/* ---- limits, caps and weights ---------------------------------------------------------------- */

/* Row i of a tile sees the keys below slope * i + low, which may be none or more than there are. */
static void set_limits(int low, int slope)
{
    problem.has_limit = 1;
    for (int t = 0, i = 0; t < problem.tiles; t++)
        for (int x = 0; x < problem.rows[t]; x++)
            problem.limit[i++] = slope * x + low;
}

static void limit_randomly(rng *r)
{
    int i = 0;
    problem.has_limit = 1;
    for (int t = 0; t < problem.tiles; t++)
        for (int x = 0, limit = (int)rng_below(r, 8) - 4; x < problem.rows[t]; x++)
            problem.limit[i++] = limit +=
                (int)rng_below(r, 1 + 2 * grad_keys(&problem) / problem.rows[t]);
}

static void cap_randomly(rng *r)
{
    problem.has_cap = 1;
    for (int i = 0; i < grad_rows(&problem); i++)
        problem.cap[i] = rng_below(r, 4) ? (float)rng_gauss(r) - 1 : INFINITY;
}

static void weigh_randomly(rng *r)
{
    for (int j = 0; j < grad_keys(&problem); j++)
        problem.logw[j] = rng_below(r, 5) ? 5 * (float)rng_gauss(r) : -INFINITY;
}

static const char *limits_case(const kern_run *run, rng *r, const void *shape)
{
    const grad_shape *s = shape;
    start(s, r);
    set_limits(s->kind, s->slope);
    grad_fill_lse(&problem, r);
    return run_and_check(run, r);
}

static const char *caps_case(const kern_run *run, rng *r, const void *shape)
{
    const grad_shape *s = shape;
    start(s, r);
    cap_randomly(r);
    if (s->kind)
        limit_randomly(r);
    grad_fill_lse(&problem, r);
    return run_and_check(run, r);
}

/* Keys of weight zero, and rows that count as if they saw nothing. */
static const char *holes_case(const kern_run *run, rng *r, const void *shape)
{
    start(shape, r);
    weigh_randomly(r);
    grad_fill_lse(&problem, r);
    for (int i = 0; i < grad_rows(&problem); i++)
        if (rng_below(r, 4) == 0)
            problem.lse[i] = INFINITY;
    return run_and_check(run, r);
}

void kern_grad_masks(const kern_run *run)
{
    const ha_arith *a = run->arith;
    grad_shape s = {.dtype = kern_own_dtype(run), .head_dim = 24, .dv = 17, .chunks = 2,
                    .keys = {a->gc, 29}};
    for (int n = 0; (s.kind = 3 * n - 2 * a->gr) <= a->gc + 35; n++) {
        s.tiles = 1 + n % 2;
        s.rows[0] = 1 + 7 * n % a->gr;
        s.rows[1] = 1 + n % 23;
        s.slope = n % 3;
        s.at = (placement)(n / 3 % PLACEMENTS);
        char what[64];
        snprintf(what, sizeof what, "limits from %d, slope %d, ", s.kind, s.slope);
        try_grad(run, limits_case, &s, what);
    }
    s.tiles = 1;
    for (s.rows[0] = 1; s.rows[0] <= a->gr; s.rows[0] += 5) {
        s.at = (placement)(s.rows[0] % PLACEMENTS);
        s.keys[0] = 1 + s.rows[0] * 37 % a->gc;
        for (s.kind = 0; s.kind < 2; s.kind++)
            try_grad(run, caps_case, &s, s.kind ? "caps and limits, " : "caps, ");
        try_grad(run, holes_case, &s, "holes, ");
    }
}

/* ---- odd numbers ----------------------------------------------------------------------------- */

enum { NAN_ANYWHERE, ODD_OUT_OF_SIGHT, ODD_SLOPES, ODD_SUMS, HUGE_SCORES, ODDS };

static const char *const odd_names[ODDS] = {"NaN, ", "Inf and NaN out of sight, ",
                                            "Inf and NaN in v and delta, ", "Inf and NaN summed, ",
                                            "huge scores, "};

static double odd_number(rng *r)
{
    static const double odd[] = {INFINITY, -INFINITY, NAN};
    return odd[rng_below(r, COUNT(odd))];
}

/* Makes one number of each of some rows of an array odd. */
static void put_some(grad_array array, int first, int end, int some, int only_nan, rng *r)
{
    int columns = grad_columns(&problem, array);
    for (int x = 0; x < some && first < end; x++) {
        int64_t row = first + rng_below(r, end - first);
        element_put(problem.data[array], row * columns + rng_below(r, columns), problem.dtype,
                    only_nan ? NAN : odd_number(r));
    }
}

/* What no row of any tile sees is odd in the panels, and rows that see nothing are odd too. */
static void put_out_of_sight(rng *r)
{
    int keys = grad_keys(&problem), rows = grad_rows(&problem), seen = 0;
    for (int i = 0; i < rows; i++) {
        seen = problem.limit[i] > seen ? problem.limit[i] : seen;
        if (problem.limit[i] > 0)
            continue;
        put_some(GRAD_Q, i, i + 1, 1, 0, r);
        put_some(GRAD_DOUT, i, i + 1, 1, 0, r);
        problem.delta[i] = problem.lse[i] = NAN;
    }
    put_some(GRAD_K, seen, keys, keys, 0, r);
    put_some(GRAD_V, seen, keys, keys, 0, r);
}

/* The first numbers of q and k make scores of some 1e8 and 1e16, whose rounding is far above 1. */
static void put_huge(grad_array array, int n, rng *r)
{
    static const double huge[] = {1, 1, 1e8, -1e8};
    int columns = grad_columns(&problem, array);
    for (int i = 0; i < n; i++)
        element_put(problem.data[array], i * columns, problem.dtype,
                    huge[rng_below(r, COUNT(huge))]);
}

static const char *odd_case(const kern_run *run, rng *r, const void *shape)
{
    const grad_shape *s = shape;
    start(s, r);
    int keys = grad_keys(&problem), rows = grad_rows(&problem);
    if (s->kind != ODD_SUMS)
        limit_randomly(r);
    if (s->kind == HUGE_SCORES) {
        put_huge(GRAD_Q, rows, r);
        put_huge(GRAD_K, keys, r);
    }
    grad_fill_lse(&problem, r);
    switch (s->kind) {
    case NAN_ANYWHERE:
        put_some(GRAD_K, 0, keys, 1, 1, r);
        put_some(GRAD_Q, 0, rows, 1, 1, r);
        problem.lse[rng_below(r, rows)] = NAN;
        break;
    case ODD_OUT_OF_SIGHT:
        put_out_of_sight(r);
        break;
    case ODD_SLOPES:
        put_some(GRAD_V, 0, keys, 2, 0, r);
        problem.delta[rng_below(r, rows)] = (float)odd_number(r);
        break;
    case ODD_SUMS:
        put_some(GRAD_K_SUM, 0, keys, 1, 0, r);
        put_some(GRAD_Q_SUM, 0, rows, 1, 0, r);
        put_some(GRAD_DOUT_SUM, 0, rows, 1, 0, r);
        break;
    }
    return run_and_check(run, r);
}

void kern_grad_odd(const kern_run *run)
{
    const ha_arith *a = run->arith;
    for (int n = 0; n < 12 * ODDS; n++) {
        grad_shape s = {kern_own_dtype(run), 1 + n % 2, {1 + 11 * n % a->gr, 1 + n % 13}, 2,
                        {1 + 37 * n % a->gc, 1 + 17 * n % a->gc}, 2 + 13 * n % 70,
                        1 + 29 * n % 70, (placement)(n % PLACEMENTS), n % ODDS, 0};
        try_grad(run, odd_case, &s, odd_names[s.kind]);
    }
}

/* ---- everything at once ---------------------------------------------------------------------- */

static const char *mixed_case(const kern_run *run, rng *r, const void *shape)
{
    (void)shape;
    const ha_arith *a = run->arith;
    grad_shape s = {.dtype = kern_own_dtype(run), .at = (placement)rng_below(r, PLACEMENTS)};
    if (a->pair == 1)
        s.dtype = (hyperattn_dtype)rng_below(r, 3);
    s.head_dim = 1 + (int)rng_below(r, 140);
    s.dv = 1 + (int)rng_below(r, 140);
    s.tiles = 1 + (int)rng_below(r, GRAD_TILES);
    s.chunks = 1 + (int)rng_below(r, GRAD_CHUNKS);
    for (int t = 0; t < s.tiles; t++)
        s.rows[t] = 1 + (int)rng_below(r, 1 + rng_below(r, a->gr));
    for (int t = 0; t < s.chunks; t++)
        s.keys[t] = 1 + (int)rng_below(r, a->gc);
    start(&s, r);
    if (rng_below(r, 2))
        limit_randomly(r);
    if (rng_below(r, 3) == 0)
        cap_randomly(r);
    if (rng_below(r, 2))
        weigh_randomly(r);
    grad_fill_lse(&problem, r);
    const char *why = run_and_check(run, r);
    if (!why)
        return NULL;
    return failure("%s; %d+%d rows, %d+%d keys, head_dim %d, dv %d, %s%s%s", why, s.rows[0],
                   s.rows[1], s.keys[0], s.keys[1], s.head_dim, s.dv, dtype_name(s.dtype),
                   problem.has_limit ? ", limits" : "", problem.has_cap ? ", caps" : "");
}

void kern_grad_mixed(const kern_run *run)
{
    for (int n = 0; n < 60; n++)
        kern_try(run, mixed_case, NULL, "mixture %d", n);
}
