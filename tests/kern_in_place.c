/* SPDX-License-Identifier: Apache-2.0
 *
 * Tests of attend_in_place: chains of steps in guarded memory against the float64 model of attend,
 * whose definition it shares; and what is out of sight, and very wide heads.
 */
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kern_tile.h"

static tile_problem problem;
static tile_state state, before;

typedef struct shape {
    hyperattn_dtype dtype;
    int rows, head_dim, dv;
    int chunks, keys[TILE_CHUNKS]; /* the keys of each step */
    placement at;
    int indexed, kind;
} shape;

static void start(const shape *s, rng *r)
{
    problem.dtype = s->dtype;
    problem.rows = s->rows;
    problem.head_dim = s->head_dim;
    problem.dv = s->dv;
    problem.chunks = s->chunks;
    memcpy(problem.keys, s->keys, sizeof problem.keys);
    problem.at = s->at;
    assert(s->rows <= HA_IN_PLACE_ROWS && tile_total(&problem) <= TILE_KEYS);
    tile_fill(&problem, r);
}

/* ---- running --------------------------------------------------------------------------------- */

enum { Q, K, V, K_INDEX, V_INDEX, LIMIT, M, L, ACC, BUFFERS };

typedef struct memory {
    guarded g[BUFFERS];
    ha_in_place step;
} memory;

/* The `count` rows from `first` on of an array, by themselves between guard pages: consecutive, or
 * in reverse order behind an index; with a gap between rows, but none behind the last one. */
static ha_rows place(guarded *data, guarded *index, const void *array, int first, int count, int n,
                     const shape *s)
{
    const size_t size = dtype_size(s->dtype);
    const int64_t stride = n + (s->indexed ? 3 : 0);
    ha_rows rows = {NULL, stride, NULL, 0, s->dtype};
    int64_t elements = (count - 1) * stride + n;
    *data = guarded_new((size_t)elements * size, s->at);
    fill_signalling(data->data, elements, s->dtype);
    rows.base = data->data;
    if (s->indexed) {
        *index = guarded_new((size_t)count * 4, s->at);
        for (int i = 0; i < count; i++)
            ((uint32_t *)index->data)[i] = (uint32_t)(count - 1 - i);
        rows.index = (const uint32_t *)index->data;
        guarded_read_only(index);
    }
    for (int i = 0; i < count; i++)
        memcpy(data->data + (s->indexed ? count - 1 - i : i) * stride * (int64_t)size,
               (const char *)array + (size_t)(first + i) * (size_t)n * size, (size_t)n * size);
    guarded_read_only(data);
    return rows;
}

static memory memory_new(const kern_run *run, const shape *s)
{
    const ha_arith *a = &run->table->f32;
    memory mem = {0};
    ha_in_place *t = &mem.step;
    int64_t padded = ha_padded_columns(a, s->dv);
    *t = (ha_in_place){.rows = s->rows, .head_dim = s->head_dim, .head_dim_v = s->dv,
                       .scale = problem.scale, .ldq = ha_ldq(a, s->head_dim),
                       .ldacc = padded + (s->rows % 2 ? 5 : 0)};
    mem.g[Q] = kern_floats(ha_round_up(s->rows, a->mr) * t->ldq, s->at);
    ha_rows q = {problem.q, s->head_dim, NULL, 0, s->dtype};
    a->load_q(mem.g[Q].data, &q, s->rows, s->head_dim);
    guarded_read_only(&mem.g[Q]);
    mem.g[M] = kern_floats(s->rows, s->at);
    mem.g[L] = kern_floats(s->rows, s->at);
    mem.g[ACC] = kern_floats((s->rows - 1) * t->ldacc + padded, s->at);
    t->q = (const float *)mem.g[Q].data;
    t->m = (float *)mem.g[M].data;
    t->l = (float *)mem.g[L].data;
    t->acc = (float *)mem.g[ACC].data;
    for (int i = 0; i < s->rows; i++) {
        t->m[i] = -INFINITY;
        t->l[i] = 0;
        memset(t->acc + i * t->ldacc, 0, (size_t)padded * 4);
    }
    return mem;
}

/* One step; no key that no row sees is in memory. */
static void step(const kern_run *run, const shape *s, memory *mem, int first, int keys)
{
    ha_in_place *t = &mem->step;
    int there = keys;
    if (problem.has_limit) {
        mem->g[LIMIT] = kern_floats(s->rows, s->at);
        for (int i = 0; i < s->rows; i++)
            ((int32_t *)mem->g[LIMIT].data)[i] = problem.limit[i] - first;
        t->limit = (const int32_t *)mem->g[LIMIT].data;
        guarded_read_only(&mem->g[LIMIT]);
        int last = t->limit[s->rows - 1];
        there = last < 1 ? 1 : last < keys ? last : keys;
    }
    t->nkeys = keys;
    t->k = place(&mem->g[K], &mem->g[K_INDEX], problem.k, first, there, s->head_dim, s);
    if (s->dv > 0)
        t->v = place(&mem->g[V], &mem->g[V_INDEX], problem.v, first, there, s->dv, s);
    run->table->attend_in_place(t);
    for (int i = K; i <= LIMIT; i++)
        guarded_free(&mem->g[i]);
}

static const char *check_memory(const memory *mem, const kern_run *run, const shape *s)
{
    const char *why = NULL;
    for (int i = M; i < BUFFERS && !why; i++)
        why = guarded_check(&mem->g[i]);
    int64_t padded = ha_padded_columns(&run->table->f32, s->dv);
    for (int i = 0; i + 1 < s->rows && !why; i++)
        for (int64_t c = padded; c < mem->step.ldacc; c++)
            if (!is_signalling(mem->step.acc, i * mem->step.ldacc + c, HYPERATTN_F32))
                return failure("acc[%d][%lld], behind the padded dv, was written", i, (long long)c);
    return why;
}

static const char *run_steps(const kern_run *run, const shape *s, tile_state *to)
{
    memory mem = memory_new(run, s);
    for (int t = 0, first = 0; t < s->chunks; first += s->keys[t++])
        step(run, s, &mem, first, s->keys[t]);
    const char *why = check_memory(&mem, run, s);
    for (int i = 0; i < s->rows; i++) {
        to->m[i] = mem.step.m[i];
        to->l[i] = mem.step.l[i];
        memcpy(to->acc[i], mem.step.acc + i * mem.step.ldacc, (size_t)s->dv * 4);
    }
    for (int i = 0; i < BUFFERS; i++)
        guarded_free(&mem.g[i]);
    return why;
}

static const char *run_and_check(const kern_run *run, const shape *s)
{
    const char *why = run_steps(run, s, &state);
    return why ? why : tile_check(run, &problem, &state);
}

/* ---- cases ----------------------------------------------------------------------------------- */

static const char *plain_case(const kern_run *run, rng *r, const void *arg)
{
    start(arg, r);
    return run_and_check(run, arg);
}

static const char *limits_case(const kern_run *run, rng *r, const void *arg)
{
    const shape *s = arg;
    start(s, r);
    problem.has_limit = 1;
    for (int i = 0; i < s->rows; i++) /* of a causal mask, two query heads a row */
        problem.limit[i] = s->kind + i / 2;
    return run_and_check(run, s);
}

/* No bit of a row depends on the keys behind its limit, be they NaN. */
static const char *hidden_case(const kern_run *run, rng *r, const void *arg)
{
    const shape *s = arg;
    start(s, r);
    tile_limit_randomly(&problem, r);
    const char *why = run_steps(run, s, &before);
    int last = (int)rng_below(r, s->rows);
    for (int j = problem.limit[last] < 0 ? 0 : problem.limit[last]; j < tile_total(&problem); j++) {
        for (int c = 0; c < s->head_dim; c++)
            element_put(problem.k, j * s->head_dim + c, s->dtype, c % 2 ? NAN : INFINITY);
        for (int c = 0; c < s->dv; c++)
            element_put(problem.v, j * s->dv + c, s->dtype, c % 2 ? NAN : INFINITY);
    }
    if (!why)
        why = run_steps(run, s, &state);
    kern_worst w = {0};
    for (int i = 0; i <= last; i++)
        tile_same_row(&w, &problem, &before, &state, i);
    return why ? why : kern_verdict(&w);
}

enum { GROW, SHRINK, OVERFLOWING, NO_SCORE, KEY_ODD, VALUE_ODD, SUBNORMAL, ODDS };

static const char *const odd_names[ODDS] = {
    "maxima grow, ", "maxima shrink, ", "scores overflow, ", "scores of -inf, ",
    "an Inf or NaN in k, ", "an Inf or NaN in v, ", "subnormal values, "};

/* The first number of a row of k decides its score, as the first of q is 1. */
static double first_of_key(int kind, int j, int total, rng *r)
{
    switch (kind) {
    case GROW: return 3000.0 * j / total;
    case SHRINK: return -3000.0 * j / total;
    case OVERFLOWING: return rng_below(r, 9) ? rng_gauss(r) : 1e30;
    default: return rng_below(r, 3) ? -INFINITY : rng_gauss(r);
    }
}

static const char *odd_case(const kern_run *run, rng *r, const void *arg)
{
    static const double odd[] = {INFINITY, -INFINITY, NAN};
    const shape *s = arg;
    start(s, r);
    int total = tile_total(&problem);
    for (int i = 0; i < s->rows && s->kind <= NO_SCORE; i++)
        element_put(problem.q, i * s->head_dim, s->dtype, s->kind == OVERFLOWING ? 1e30 : 1);
    for (int j = 0; j < total && s->kind <= NO_SCORE; j++)
        element_put(problem.k, j * s->head_dim, s->dtype, first_of_key(s->kind, j, total, r));
    if (s->kind == KEY_ODD)
        element_put(problem.k, rng_below(r, total * s->head_dim), s->dtype, odd[rng_below(r, 3)]);
    if (s->kind == VALUE_ODD)
        element_put(problem.v, rng_below(r, total * s->dv), s->dtype, odd[rng_below(r, 3)]);
    for (int64_t x = 0; x < (int64_t)total * s->dv && s->kind == SUBNORMAL; x += 2)
        element_put(problem.v, x, s->dtype, s->dtype == HYPERATTN_F16 ? 0x1p-20 : 0x1p-130);
    return run_and_check(run, s);
}

/* Heads as wide as the library takes: keys of which a few fill the caches. */
static const char *wide_case(const kern_run *run, rng *r, const void *arg)
{
    enum { DIM = 65536, WIDE_KEYS = 19, ROWS = 3 };
    const hyperattn_dtype dtype = *(const hyperattn_dtype *)arg;
    guarded k = guarded_new(WIDE_KEYS * DIM * dtype_size(dtype), AT_END);
    guarded q = kern_floats(ROWS * DIM, AT_END), acc = kern_floats(ROWS * DIM, AT_END);
    float m[ROWS], l[ROWS];
    for (int i = 0; i < ROWS; i++) {
        m[i] = -INFINITY;
        l[i] = 0;
    }
    memset(acc.data, 0, acc.size);
    for (int64_t x = 0; x < ROWS * DIM; x++)
        ((float *)q.data)[x] = (float)rng_gauss(r);
    for (int64_t x = 0; x < WIDE_KEYS * DIM; x++) /* a column's own number, so known sums */
        element_put(k.data, x, dtype, (double)(x % DIM % 31 - 15) / 16);
    guarded_read_only(&k);
    ha_rows rows = {k.data, DIM, NULL, 0, dtype};
    run->table->attend_in_place(&(ha_in_place){
        .q = (const float *)q.data, .ldq = DIM, .k = rows, .v = rows, .rows = ROWS,
        .nkeys = WIDE_KEYS, .head_dim = DIM, .head_dim_v = DIM, .scale = 1.0f / 256, .m = m,
        .l = l, .acc = (float *)acc.data, .ldacc = DIM});
    kern_worst w = {0};
    for (int i = 0; i < ROWS; i++) {
        kern_near(&w, "l", 0, i, WIDE_KEYS, l[i], 1e-4); /* all scores are the same */
        for (int64_t c = 0; c < DIM; c++)
            kern_near(&w, "acc", i, c, WIDE_KEYS * (double)(c % 31 - 15) / 16,
                      ((const float *)acc.data)[i * DIM + c], 1e-4);
    }
    const char *why = guarded_check(&acc);
    guarded_free(&k);
    guarded_free(&q);
    guarded_free(&acc);
    return why ? why : kern_verdict(&w);
}

/* ---- shapes ---------------------------------------------------------------------------------- */

static void try_shape(const kern_run *run, kern_case *verify, const shape *s, const char *what)
{
    kern_try(run, verify, s, "%s%s, %d rows, %d+%d+%d keys%s, head_dim %d, dv %d, %s", what,
             dtype_name(s->dtype), s->rows, s->keys[0], s->chunks > 1 ? s->keys[1] : 0,
             s->chunks > 2 ? s->keys[2] : 0, s->indexed ? " by index" : "", s->head_dim, s->dv,
             kern_placement(s->at));
}

/* Every width, row count and key count, one after the other. */
static void try_tails(const kern_run *run, hyperattn_dtype dtype)
{
    shape s = {.dtype = dtype, .chunks = 1, .rows = 5, .keys = {37}};
    for (int d = 0; d < KERN_DIMS; d++)
        for (int n = 0; n < PLACEMENTS; n++) {
            s.head_dim = kern_dims[d];
            s.dv = kern_dims[(5 * d + 3 * n + 1) % KERN_DIMS];
            s.at = (placement)n;
            s.indexed = (d + n) % 2;
            try_shape(run, plain_case, &s, "");
        }
    for (s.rows = 1; s.rows <= HA_IN_PLACE_ROWS; s.rows++)
        for (s.keys[0] = 1; s.keys[0] <= 41; s.keys[0] += s.rows % 3 + 1) {
            s.at = (placement)(s.keys[0] % PLACEMENTS);
            s.indexed = s.keys[0] % 2;
            s.head_dim = 1 + s.keys[0] % 37;
            s.dv = s.keys[0] * 7 % 80;
            try_shape(run, plain_case, &s, "");
        }
    for (int n = 0; n < 12; n++) { /* several internal chunks, several steps */
        s = (shape){dtype, 1 + 5 * n % HA_IN_PLACE_ROWS, 1 + 29 * n % 256, 1 + 53 * n % 256,
                    TILE_CHUNKS, {512 - n, 1 + n, 300 + 7 * n}, (placement)(n % PLACEMENTS),
                    n % 2, 0};
        try_shape(run, plain_case, &s, "");
    }
}

static void try_masks(const kern_run *run, hyperattn_dtype dtype)
{
    shape s = {.dtype = dtype, .chunks = 2, .keys = {280, 29}, .head_dim = 24, .dv = 20};
    for (int n = 0; n < 36; n++) {
        s.rows = 1 + 7 * n % HA_IN_PLACE_ROWS;
        s.at = (placement)(n % PLACEMENTS);
        s.indexed = n % 2;
        s.kind = n < 12 ? n - 6 : n < 24 ? 232 + 2 * n : 246 + 3 * n;
        char what[32];
        snprintf(what, sizeof what, "limits from %d, ", s.kind);
        try_shape(run, limits_case, &s, what);
        s.keys[0] = 1 + n * 37 % 300;
        try_shape(run, hidden_case, &s, "NaN out of sight, ");
        s.keys[0] = 280;
    }
}

void kern_in_place(const kern_run *run)
{
    for (int dtype = 0; dtype < 3; dtype++) {
        try_tails(run, (hyperattn_dtype)dtype);
        try_masks(run, (hyperattn_dtype)dtype);
        kern_try(run, wide_case, &(hyperattn_dtype){(hyperattn_dtype)dtype}, "%s, 65536 columns",
                 dtype_name((hyperattn_dtype)dtype));
        for (int n = 0; n < 4 * ODDS; n++) {
            shape s = {(hyperattn_dtype)dtype, 1 + 3 * n % HA_IN_PLACE_ROWS, 1 + 13 * n % 90,
                       1 + 29 * n % 90, 2, {1 + 131 * n % 400, 1 + 17 * n % 90},
                       (placement)(n % PLACEMENTS), n % 2, n % ODDS};
            try_shape(run, odd_case, &s, odd_names[s.kind]);
        }
    }
}
