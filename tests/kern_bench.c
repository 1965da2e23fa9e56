/* SPDX-License-Identifier: Apache-2.0
 *
 * Speed of the kernels of one level, on data that lies in the caches.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kern.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Seconds of one call: the best of many samples, each short enough to fit between two interruptions
 * on a busy machine. */
static double time_of(void (*call)(void *arg), void *arg)
{
    double best = 1e9;
    for (int sample = 0, calls = 1; sample < 60;) {
        double start = now();
        for (int i = 0; i < calls; i++)
            call(arg);
        double seconds = now() - start;
        if (seconds < 0.001) {
            calls *= 2;
            continue;
        }
        best = seconds / calls < best ? seconds / calls : best;
        sample++;
    }
    return best;
}

static void *aligned(size_t size)
{
    void *p = aligned_alloc(64, (size + 63) / 64 * 64);
    if (!p)
        abort();
    return p;
}

/* ---- peaks ----------------------------------------------------------------------------------- */

enum { PEAK_STEPS = 1 << 16 };

typedef struct peak_call {
    double (*peak)(int64_t iters);
    double operations;
} peak_call;

static void call_peak(void *arg)
{
    peak_call *c = arg;
    c->operations = c->peak(PEAK_STEPS);
}

static double peak_gflops(double (*peak)(int64_t iters))
{
    peak_call c = {peak, 0};
    double seconds = time_of(call_peak, &c);
    return 1e-9 * c.operations / seconds;
}

/* ---- attend and packs ------------------------------------------------------------------------ */

/* A whole tile, and 8 tiles' keys for the packs. */
typedef struct tile_call {
    const ha_arith *arith;
    ha_rows src;
    int64_t nkeys;
    ha_tile tile;
    void *rows, *q, *k, *v;
} tile_call;

static void call_attend(void *arg)
{
    tile_call *c = arg;
    c->arith->attend(&c->tile);
}

static void call_load_q(void *arg)
{
    tile_call *c = arg;
    c->arith->load_q(c->q, &c->src, c->nkeys, c->tile.head_dim);
}

static void call_pack_k(void *arg)
{
    tile_call *c = arg;
    c->arith->pack_k(c->k, &c->src, c->nkeys, c->tile.head_dim);
}

static void call_pack_v(void *arg)
{
    tile_call *c = arg;
    c->arith->pack_v(c->v, c->tile.vpanel, 0, &c->src, c->nkeys, c->tile.head_dim_v);
}

static tile_call tile_new(const ha_arith *a, int dim)
{
    tile_call c = {.arith = a, .nkeys = 8 * a->bc};
    rng r = rng_new(1);
    c.src = (ha_rows){NULL, dim, NULL, 0, a->pair == 2 ? HYPERATTN_BF16 : HYPERATTN_F32};
    c.src.base = c.rows = aligned((size_t)(c.nkeys * dim) * 4);
    for (int64_t i = 0; i < c.nkeys * dim; i++)
        element_put(c.rows, i, c.src.dtype, rng_gauss(&r));
    c.q = aligned((size_t)(ha_round_up(c.nkeys, a->mr) * ha_ldq(a, dim)) * 4);
    c.k = aligned(ha_k_bytes(a, c.nkeys, dim));
    c.v = aligned(ha_v_bytes(a, c.nkeys, dim));
    ha_tile *t = &c.tile;
    *t = (ha_tile){.q = c.q, .k = c.k, .v = c.v, .rows = a->br, .keys = a->bc, .head_dim = dim,
                   .head_dim_v = dim, .vpanel = c.nkeys / a->pair,
                   .ldacc = ha_padded_columns(a, dim), .scale = 1.4427f / (float)dim};
    t->logw = memset(aligned((size_t)a->bc * 4), 0, (size_t)a->bc * 4);
    t->m = aligned((size_t)a->br * 4);
    t->l = memset(aligned((size_t)a->br * 4), 0, (size_t)a->br * 4);
    t->acc = aligned((size_t)(a->br * t->ldacc) * 4);
    memset(t->acc, 0, (size_t)(a->br * t->ldacc) * 4);
    t->scratch = aligned((size_t)ha_tile_scratch(a) * 4);
    for (int i = 0; i < a->br; i++)
        t->m[i] = -1e30f;
    call_load_q(&c);
    call_pack_k(&c);
    call_pack_v(&c);
    return c;
}

static void tile_free(tile_call *c)
{
    free((void *)(uintptr_t)c->tile.logw);
    free(c->tile.m);
    free(c->tile.l);
    free(c->tile.acc);
    free(c->tile.scratch);
    free(c->rows);
    free(c->q);
    free(c->k);
    free(c->v);
}

/* ---- backward -------------------------------------------------------------------------------- */

/* A whole tile, whose rows and keys are the same numbers and whose weights are moderate. */
typedef struct grad_call {
    const ha_arith *arith;
    ha_grad_tile tile;
    void *rows, *tile_rows, *panels, *columns;
    float *sums, *logw, *lse;
} grad_call;

static void call_backward(void *arg)
{
    grad_call *c = arg;
    c->arith->backward(&c->tile);
}

static grad_call grad_new(const ha_arith *a, int dim)
{
    grad_call c = {.arith = a};
    int64_t n = ha_round_up(a->gr > a->gc ? a->gr : a->gc, a->nr), ld = ha_padded_columns(a, dim);
    rng r = rng_new(1);
    ha_rows src = {NULL, dim, NULL, 0, a->pair == 2 ? HYPERATTN_BF16 : HYPERATTN_F32};
    src.base = c.rows = aligned((size_t)(n * dim) * 4);
    for (int64_t i = 0; i < n * dim; i++)
        element_put(c.rows, i, src.dtype, rng_gauss(&r));
    c.tile_rows = aligned((size_t)(ha_round_up(n, a->mr) * ha_ldq(a, dim)) * 4);
    c.panels = aligned(ha_k_bytes(a, n, dim));
    c.columns = aligned(ha_v_bytes(a, n, dim));
    c.logw = memset(aligned((size_t)n * 4), 0, (size_t)n * 4);
    c.lse = aligned((size_t)n * 4);
    size_t sums = (size_t)(3 * n * ld) * 4;
    c.sums = memset(aligned(sums), 0, sums);
    for (int64_t i = 0; i < n; i++)
        c.lse[i] = 8;
    a->load_q(c.tile_rows, &src, n, dim);
    a->pack_k(c.panels, &src, n, dim);
    a->pack_v(c.columns, n / a->pair, 0, &src, n, dim);
    c.tile = (ha_grad_tile){
        .q = c.tile_rows, .dout = c.tile_rows, .q_sum = c.columns, .dout_sum = c.columns,
        .rpanel = n / a->pair, .k = c.panels, .v = c.panels, .k_sum = c.columns,
        .kpanel = n / a->pair, .logw = c.logw, .lse = c.lse, .delta = c.logw, .rows = a->gr,
        .keys = a->gc, .head_dim = dim, .head_dim_v = dim, .scale = 1.4427f / (float)dim,
        .dq = c.sums, .dk = c.sums + n * ld, .dv = c.sums + 2 * n * ld, .lddq = ld, .lddk = ld,
        .lddv = ld, .scratch = aligned((size_t)(a->grad_scratch + 1) * 4)}; /* ref needs none */
    return c;
}

static double backward_gflops(const ha_arith *a, int dim)
{
    grad_call c = grad_new(a, dim);
    double gflops = 1e-8 * a->gr * a->gc * dim / time_of(call_backward, &c);
    free(c.tile.scratch);
    free(c.rows);
    free(c.tile_rows);
    free(c.panels);
    free(c.columns);
    free(c.sums);
    free(c.logw);
    free(c.lse);
    return gflops;
}

static void bench_arith(const ha_arith *a, const char *name, double peak)
{
    static const int dims[] = {64, 80, 96, 128, 256};
    printf("  %s: peak %.1f GFLOP/s\n", name, peak);
    printf("  %8s  %18s  %18s  %23s\n", "head_dim", "attend", "backward",
           "load_q, pack_k, pack_v");
    for (int d = 0; d < COUNT(dims); d++) {
        tile_call c = tile_new(a, dims[d]);
        double flops = 4.0 * a->br * a->bc * dims[d];
        double gflops = 1e-9 * flops / time_of(call_attend, &c);
        double bytes = (double)(c.nkeys * dims[d]) * (double)dtype_size(c.src.dtype);
        double backward = backward_gflops(a, dims[d]);
        printf("  %8d  %6.1f GFLOP/s %3.0f%%  %6.1f GFLOP/s %3.0f%%  %6.1f %6.1f %6.1f GB/s\n",
               dims[d], gflops, 100 * gflops / peak, backward, 100 * backward / peak,
               1e-9 * bytes / time_of(call_load_q, &c), 1e-9 * bytes / time_of(call_pack_k, &c),
               1e-9 * bytes / time_of(call_pack_v, &c));
        tile_free(&c);
    }
}

/* ---- exp2 ------------------------------------------------------------------------------------ */

enum { EXP2_COUNT = 1024 };

typedef struct exp2_call {
    const ha_kernels *table;
    float from[EXP2_COUNT], x[EXP2_COUNT];
} exp2_call;

static void call_exp2(void *arg)
{
    exp2_call *c = arg;
    memcpy(c->x, c->from, sizeof c->x);
    c->table->exp2(c->x, EXP2_COUNT);
}

static double exp2_ns(const ha_kernels *table)
{
    static exp2_call c;
    rng r = rng_new(1);
    c.table = table;
    for (int i = 0; i < EXP2_COUNT; i++)
        c.from[i] = (float)(-20 * rng_uniform(&r));
    return 1e9 * time_of(call_exp2, &c) / EXP2_COUNT;
}

/* ---- scores and sums of rows by index -------------------------------------------------------- */

enum { CELLS_KEYS = 1024, CELLS_DIM = 64, CELLS_ROWS = 4 };

typedef struct cells_call {
    const ha_kernels *table;
    ha_scores scores;
    float *sum;
} cells_call;

static void call_score_rows(void *arg)
{
    cells_call *c = arg;
    c->table->score_rows(&c->scores);
}

static void call_sum_rows(void *arg)
{
    cells_call *c = arg;
    c->table->sum_rows(c->sum, &c->scores.k, c->scores.s, 1, CELLS_KEYS, CELLS_DIM);
}

typedef struct scan_call {
    const ha_kernels *table;
    ha_scan scan;
} scan_call;

static void call_scan_codes(void *arg)
{
    scan_call *c = arg;
    c->table->scan_codes(&c->scan);
}

/* One key in some hundred is a hit, and no cell is too far away. */
static double scan_ns(const ha_kernels *table)
{
    enum { SETS = 4, BLOCKS = 2, ROWS = 16, KEYS = SETS * HA_CODE_KEYS * BLOCKS * HA_CODE_KEYS };
    static uint8_t codes[KEYS * HA_CODE], boxes[SETS * 2 * HA_CODE_BLOCK];
    static float score[ROWS * SETS * HA_CODE_KEYS], least[ROWS], unit[ROWS];
    static uint32_t hit[ROWS * KEYS];
    static int8_t q[ROWS * HA_CODE];
    int64_t found[ROWS];
    rng r = rng_new(1);
    for (int i = 0; i < KEYS * HA_CODE; i++)
        codes[i] = (uint8_t)(1 + rng_below(&r, 63));
    for (int i = 0; i < SETS * 2 * HA_CODE_BLOCK; i++)
        boxes[i] = i / HA_CODE_BLOCK % 2 ? 31 : 32;
    for (int i = 0; i < ROWS * HA_CODE; i++)
        q[i] = (int8_t)(i % 2 ? 31 : -31);
    for (int i = 0; i < ROWS; i++) {
        least[i] = 5200;
        unit[i] = 1;
    }
    scan_call c = {table, {codes, boxes, SETS, BLOCKS, ROWS, q, score, least, unit, 1, hit, KEYS,
                           found}};
    return 1e9 * time_of(call_scan_codes, &c) / (ROWS * KEYS);
}

/* Rows against keys by index, and a sum of as many, per key; and codes against a query's. */
static void bench_cells(const ha_kernels *table)
{
    static float keys[CELLS_KEYS * CELLS_DIM], s[CELLS_KEYS * CELLS_ROWS], sum[CELLS_DIM];
    static float q[CELLS_ROWS * CELLS_DIM];
    static uint32_t index[CELLS_KEYS];
    rng r = rng_new(1);
    for (int i = 0; i < CELLS_KEYS * CELLS_DIM; i++)
        keys[i] = (float)rng_gauss(&r);
    for (int i = 0; i < CELLS_ROWS * CELLS_DIM; i++)
        q[i] = (float)rng_gauss(&r);
    for (int i = 0; i < CELLS_KEYS; i++)
        index[i] = (uint32_t)rng_below(&r, CELLS_KEYS);
    cells_call c = {table, {s, q, CELLS_DIM, {keys, CELLS_DIM, index, 0, HYPERATTN_F32},
                            CELLS_KEYS, CELLS_DIM, CELLS_ROWS, 1}, sum};
    double score = 1e9 * time_of(call_score_rows, &c) / CELLS_KEYS;
    double sums = 1e9 * time_of(call_sum_rows, &c) / CELLS_KEYS;
    printf("  score_rows of %d rows, dimension %d: %.2f ns a key; sum_rows: %.2f; "
           "scan_codes: %.3f\n", CELLS_ROWS, CELLS_DIM, score, sums, scan_ns(table));
}

void kern_bench(const ha_kernels *table, const char *level)
{
    printf("%s: exp2 %.3f ns per number\n", level, exp2_ns(table));
    bench_cells(table);
    bench_arith(&table->f32, "f32", peak_gflops(table->f32_peak));
    if (table->bf16)
        bench_arith(table->bf16, "bf16", peak_gflops(table->bf16_peak));
}
