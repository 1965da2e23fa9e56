/* SPDX-License-Identifier: Apache-2.0
 *
 * Tests of attend, in both arithmetics.
 */
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kern_tile.h"

static tile_problem problem;
static tile_state state, before; /* the latest run's, and one to compare it with */

typedef struct attend_shape {
    hyperattn_dtype dtype;
    int rows, head_dim, dv;
    int chunks, keys[TILE_CHUNKS];
    placement at;
    int kind, slope, capped;
} attend_shape;

static void start(const attend_shape *s, rng *r)
{
    problem.dtype = s->dtype;
    problem.rows = s->rows;
    problem.head_dim = s->head_dim;
    problem.dv = s->dv;
    problem.chunks = s->chunks;
    memcpy(problem.keys, s->keys, sizeof problem.keys);
    problem.at = s->at;
    assert(s->rows <= TILE_ROWS && tile_total(&problem) <= TILE_KEYS);
    tile_fill(&problem, r);
}

static const char *run_and_check(const kern_run *run)
{
    const char *why = tile_run(run, &problem, &state);
    return why ? why : tile_check(run, &problem, &state);
}

static void try_attend(const kern_run *run, kern_case *verify, const attend_shape *s,
                       const char *what)
{
    kern_try(run, verify, s, "%s%s, %d rows, %d+%d+%d keys, head_dim %d, dv %d, %s", what,
             dtype_name(s->dtype), s->rows, s->keys[0], s->chunks > 1 ? s->keys[1] : 0,
             s->chunks > 2 ? s->keys[2] : 0, s->head_dim, s->dv, kern_placement(s->at));
}

/* ---- shapes ---------------------------------------------------------------------------------- */

static const char *plain_case(const kern_run *run, rng *r, const void *shape)
{
    start(shape, r);
    return run_and_check(run);
}

/* Every head_dim, dv, row count and key count, one after the other. */
void kern_attend_shapes(const kern_run *run)
{
    const ha_arith *a = run->arith;
    attend_shape s = {.dtype = kern_own_dtype(run), .chunks = 1, .rows = 7, .keys = {37}};
    for (int d = 0; d < KERN_DIMS; d++)
        for (int n = 0; n < PLACEMENTS; n++) {
            s.head_dim = kern_dims[d];
            s.dv = kern_dims[(5 * d + 3 * n + 1) % KERN_DIMS];
            s.at = (placement)n;
            try_attend(run, plain_case, &s, "");
        }
    s.head_dim = 17;
    s.dv = 33;
    for (s.rows = 1; s.rows <= a->br; s.rows++) {
        s.at = (placement)(s.rows % PLACEMENTS);
        try_attend(run, plain_case, &s, "");
    }
    s.rows = 5;
    for (s.keys[0] = 1; s.keys[0] <= a->bc; s.keys[0]++) {
        s.at = (placement)(s.keys[0] % PLACEMENTS);
        s.dv = 1 + s.keys[0] % 80;
        try_attend(run, plain_case, &s, "");
    }
    s = (attend_shape){kern_own_dtype(run), a->br, 128, 128, 1, {a->bc}, AT_END, 0, 0, 0};
    try_attend(run, plain_case, &s, "whole tile, ");
    s.dv = 0;
    try_attend(run, plain_case, &s, "no values, ");
}

/* ---- limits and caps ------------------------------------------------------------------------- */

/* Row i sees the keys below slope * i + kind, which may be none or more than there are. */
static const char *limits_case(const kern_run *run, rng *r, const void *shape)
{
    const attend_shape *s = shape;
    start(s, r);
    problem.has_limit = 1;
    problem.careful = s->kind % 2;
    for (int i = 0; i < s->rows; i++)
        problem.limit[i] = s->slope * i + s->kind;
    return run_and_check(run);
}

/* No bit of a row depends on the keys behind its limit, be they NaN. */
static const char *hidden_case(const kern_run *run, rng *r, const void *shape)
{
    const attend_shape *s = shape;
    start(s, r);
    tile_limit_randomly(&problem, r);
    const char *why = tile_run(run, &problem, &before);
    int last = (int)rng_below(r, s->rows);
    int seen = problem.limit[last] < 0 ? 0 : problem.limit[last];
    for (int j = seen; j < tile_total(&problem); j++) {
        for (int c = 0; c < s->head_dim; c++)
            element_put(problem.k, j * s->head_dim + c, s->dtype, s->kind ? NAN : rng_gauss(r));
        for (int c = 0; c < s->dv; c++)
            element_put(problem.v, j * s->dv + c, s->dtype, s->kind ? NAN : rng_gauss(r));
    }
    problem.careful = s->kind;
    if (!why)
        why = tile_run(run, &problem, &state);
    kern_worst w = {0};
    for (int i = 0; i <= last; i++)
        tile_same_row(&w, &problem, &before, &state, i);
    return why ? why : kern_verdict(&w);
}

static const char *caps_case(const kern_run *run, rng *r, const void *shape)
{
    start(shape, r);
    tile_cap_randomly(&problem, r);
    return run_and_check(run);
}

void kern_attend_masks(const kern_run *run)
{
    const ha_arith *a = run->arith;
    attend_shape s = {.dtype = kern_own_dtype(run), .head_dim = 24, .dv = 24, .chunks = 2,
                      .keys = {a->bc, 29}};
    for (int n = 0; (s.kind = 3 * n - 2 * a->br) <= a->bc + 35; n++) {
        s.rows = 1 + 7 * n % a->br;
        s.slope = n % 3;
        s.at = (placement)(n / 3 % PLACEMENTS);
        char what[64];
        snprintf(what, sizeof what, "limits from %d, slope %d, ", s.kind, s.slope);
        try_attend(run, limits_case, &s, what);
    }
    for (s.rows = 1; s.rows <= a->br; s.rows += 5) {
        s.at = (placement)(s.rows % PLACEMENTS);
        s.keys[0] = 1 + s.rows * 37 % a->bc;
        try_attend(run, caps_case, &s, "caps, ");
        for (s.kind = 0; s.kind < 2; s.kind++)
            try_attend(run, hidden_case, &s, s.kind ? "NaN out of sight, " : "keys out of sight, ");
    }
}

/* ---- chains ---------------------------------------------------------------------------------- */

enum { GROW, SHRINK, LEAP, EMPTY_FIRST, EMPTY_BETWEEN, ALL_EMPTY, HOLES, CHAINS };

static const char *const chain_names[CHAINS] = {
    "maxima grow, ",        "maxima shrink, ",   "maxima leap, ", "first chunk empty, ",
    "middle chunk empty, ", "all chunks empty, ", "holes, "};

/* The weight of a key of chunk t. */
static float chain_weight(int kind, int t, rng *r)
{
    switch (kind) {
    case GROW: return 9.25f * (float)t;
    case SHRINK: return -9.25f * (float)t;
    case LEAP: return 200.0f * (float)t; /* what came before counts nothing */
    case EMPTY_FIRST: return t == 0 ? -INFINITY : 0;
    case EMPTY_BETWEEN: return t == 1 ? -INFINITY : 0;
    case ALL_EMPTY: return -INFINITY;
    default: return rng_below(r, 3) ? (float)rng_gauss(r) : -INFINITY;
    }
}

static const char *chain_case(const kern_run *run, rng *r, const void *shape)
{
    const attend_shape *s = shape;
    start(s, r);
    int j = 0;
    for (int t = 0; t < s->chunks; t++)
        for (int n = 0; n < s->keys[t]; n++)
            problem.logw[j++] = chain_weight(s->kind, t, r);
    return run_and_check(run);
}

void kern_attend_chains(const kern_run *run)
{
    const ha_arith *a = run->arith;
    for (int n = 0; n < 4 * CHAINS; n++) {
        attend_shape s = {kern_own_dtype(run), 1 + 11 * n % a->br, 1 + 13 * n % 90, 1 + 29 * n % 90,
                          TILE_CHUNKS, {1 + 31 * n % a->bc, a->bc, 1 + 17 * n % a->bc},
                          (placement)(n % PLACEMENTS), n % CHAINS, 0, 0};
        try_attend(run, chain_case, &s, chain_names[s.kind]);
    }
}

/* ---- odd numbers ----------------------------------------------------------------------------- */

enum {
    VALUE_ODD_SEEN, VALUE_ODD_MASKED, KEY_ODD, KEY_ODD_MASKED, QUERY_NAN, QUERY_INF, HUGE_SCORES,
    HUGE_VALUE, SUBNORMAL, ODDS
};

static const char *const odd_names[ODDS] = {
    "an Inf or NaN in v, ", "an Inf or NaN in v behind limits, ", "an Inf or NaN in k, ",
    "an Inf or NaN in k behind limits, ", "a NaN in q, ", "an Inf in q, ", "scores overflow, ",
    "a huge value, ", "subnormal numbers, "};

static void put_some(void *array, int64_t n, int some, const double *values, int count, rng *r)
{
    for (int x = 0; x < some; x++)
        element_put(array, rng_below(r, n), problem.dtype, values[rng_below(r, count)]);
}

/* The first number of each row becomes zero or huge, so that a score is moderate or infinite. */
static void put_extremes(void *array, int rows, rng *r)
{
    static const double extremes[] = {0, 0, 0, 0, 1e30, -1e30};
    for (int i = 0; i < rows; i++)
        element_put(array, i * problem.head_dim, problem.dtype,
                    extremes[rng_below(r, COUNT(extremes))]);
}

static void make_odd(const attend_shape *s, rng *r)
{
    int kind = s->kind;
    static const double odd[] = {INFINITY, -INFINITY, NAN}, top[] = {3e38};
    static const double tiny[] = {0x1p-130, -0x1p-133, 0x1p-127};
    int total = tile_total(&problem);
    int64_t nq = problem.rows * problem.head_dim, nk = total * problem.head_dim;
    int64_t nv = total * problem.dv;
    if (s->capped)
        tile_cap_randomly(&problem, r);
    if (kind == VALUE_ODD_MASKED || kind == KEY_ODD_MASKED)
        tile_limit_randomly(&problem, r);
    switch (kind) {
    case VALUE_ODD_SEEN:
    case VALUE_ODD_MASKED:
        put_some(problem.v, nv, 4, odd, COUNT(odd), r);
        problem.careful = 1;
        break;
    case KEY_ODD:
    case KEY_ODD_MASKED:
        put_some(problem.k, nk, 2, odd, COUNT(odd), r);
        break;
    case HUGE_SCORES:
        put_extremes(problem.q, problem.rows, r);
        put_extremes(problem.k, total, r);
        break;
    case HUGE_VALUE:
        put_some(problem.v, nv, 1, top, COUNT(top), r);
        break;
    case SUBNORMAL:
        put_some(problem.q, nq, (int)nq / 2, tiny, COUNT(tiny), r);
        put_some(problem.k, nk, (int)nk / 2, tiny, COUNT(tiny), r);
        put_some(problem.v, nv, (int)nv / 2, tiny, COUNT(tiny), r);
        break;
    }
}

static const char *odd_case(const kern_run *run, rng *r, const void *shape)
{
    const attend_shape *s = shape;
    start(s, r);
    make_odd(s, r);
    return run_and_check(run);
}

/* An Inf or NaN in one row of q changes no bit of another row, and NaN makes all its own NaN. */
static const char *query_case(const kern_run *run, rng *r, const void *shape)
{
    const attend_shape *s = shape;
    double x = s->kind == QUERY_NAN ? NAN : INFINITY;
    start(s, r);
    if (s->capped)
        tile_cap_randomly(&problem, r);
    const char *why = tile_run(run, &problem, &before);
    int row = (int)rng_below(r, s->rows);
    element_put(problem.q, row * s->head_dim + rng_below(r, s->head_dim), s->dtype, x);
    if (!why)
        why = tile_run(run, &problem, &state);
    kern_worst w = {0};
    for (int i = 0; i < s->rows; i++)
        if (i != row)
            tile_same_row(&w, &problem, &before, &state, i);
    if (isnan(x)) {
        kern_near(&w, "l", 0, row, NAN, state.l[row], 0);
        for (int c = 0; c < s->dv; c++)
            kern_near(&w, "acc", row, c, NAN, state.acc[row][c], 0);
    }
    return why ? why : kern_verdict(&w);
}

void kern_attend_odd(const kern_run *run)
{
    const ha_arith *a = run->arith;
    for (int n = 0; n < 8 * ODDS; n++) {
        attend_shape s = {kern_own_dtype(run), 1 + 11 * n % a->br, 2 + 13 * n % 70,
                          1 + 29 * n % 70, 2, {1 + 37 * n % a->bc, 1 + 17 * n % a->bc, 0},
                          (placement)(n % PLACEMENTS), n % ODDS, 0, n / ODDS % 2};
        int in_q = s.kind == QUERY_NAN || s.kind == QUERY_INF;
        char what[64];
        snprintf(what, sizeof what, "%s%s", odd_names[s.kind], s.capped ? "caps, " : "");
        try_attend(run, in_q ? query_case : odd_case, &s, what);
    }
}

/* ---- everything at once ---------------------------------------------------------------------- */

static const char *mixed_case(const kern_run *run, rng *r, const void *shape)
{
    (void)shape;
    const ha_arith *a = run->arith;
    attend_shape s = {.dtype = kern_own_dtype(run), .at = (placement)rng_below(r, PLACEMENTS)};
    if (a->pair == 1)
        s.dtype = (hyperattn_dtype)rng_below(r, 3);
    s.rows = 1 + (int)rng_below(r, 1 + rng_below(r, a->br));
    s.head_dim = 1 + (int)rng_below(r, 140);
    s.dv = (int)rng_below(r, 140);
    s.chunks = 1 + (int)rng_below(r, TILE_CHUNKS);
    for (int t = 0; t < s.chunks; t++)
        s.keys[t] = 1 + (int)rng_below(r, a->bc);
    start(&s, r);
    problem.careful = rng_below(r, 4) == 0;
    if (rng_below(r, 2))
        tile_limit_randomly(&problem, r);
    if (rng_below(r, 2))
        tile_cap_randomly(&problem, r);
    int holes = rng_below(r, 2) == 0;
    for (int j = 0; j < tile_total(&problem); j++)
        problem.logw[j] = holes && rng_below(r, 5) == 0 ? -INFINITY : 5 * (float)rng_gauss(r);
    const char *why = run_and_check(run);
    if (!why)
        return NULL;
    return failure("%s; %d rows, %d+%d+%d keys, head_dim %d, dv %d, %s%s%s%s", why, s.rows,
                   s.keys[0], s.keys[1], s.keys[2], s.head_dim, s.dv, dtype_name(s.dtype),
                   problem.has_limit ? ", limits" : "", problem.has_cap ? ", caps" : "",
                   problem.careful ? ", careful" : "");
}

void kern_attend_mixed(const kern_run *run)
{
    for (int n = 0; n < 100; n++)
        kern_try(run, mixed_case, NULL, "mixture %d", n);
}
