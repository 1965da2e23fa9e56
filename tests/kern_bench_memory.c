/* SPDX-License-Identifier: Apache-2.0
 *
 * Speed of attend_in_place on keys that lie in memory, beside that of a copy and of reading alone,
 * on one thread and, with OpenMP, on two: the median of several rounds in each of which all three
 * run. Times are the processor's, of the thread that took most, so that they mean something on a
 * busy machine.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kern.h"

enum { KEYS = 1 << 18, ROUNDS = 9 };

#ifdef _OPENMP
enum { MOST_THREADS = 2 };
#else
enum { MOST_THREADS = 1 };
#endif

/* A thread's keys and values, one behind the other, and its rows. */
typedef struct part {
    const ha_kernels *table;
    char *data, *copy;
    size_t bytes;
    ha_in_place step;
    float m[HA_IN_PLACE_ROWS], l[HA_IN_PLACE_ROWS];
    uint64_t sum;
    double seconds; /* of the latest work */
} part;

static void copy(part *p)
{
    memcpy(p->copy, p->data, p->bytes);
}

static void read_all(part *p)
{
    uint64_t sum[8] = {0}, x[8];
    for (size_t i = 0; i + sizeof x <= p->bytes; i += sizeof x) {
        memcpy(x, p->data + i, sizeof x);
        for (int n = 0; n < 8; n++)
            sum[n] += x[n];
    }
    for (int n = 0; n < 8; n++)
        p->sum += sum[n];
}

static void attend(part *p)
{
    for (int i = 0; i < p->step.rows; i++) {
        p->m[i] = -INFINITY;
        p->l[i] = 0;
    }
    p->table->attend_in_place(&p->step);
}

static double thread_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double seconds_of(void (*work)(part *p), part *parts, int threads)
{
    double most = 0;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int i = 0; i < threads; i++) {
        double start = thread_seconds();
        work(&parts[i]);
        parts[i].seconds = thread_seconds() - start;
    }
    for (int i = 0; i < threads; i++)
        most = parts[i].seconds > most ? parts[i].seconds : most;
    return most;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void *zeros(size_t size)
{
    void *p = aligned_alloc(64, (size + 63) / 64 * 64);
    if (!p)
        abort();
    return memset(p, 0, size);
}

static part part_new(const ha_kernels *table, hyperattn_dtype dtype, int rows, int dim, int keys)
{
    const ha_arith *a = &table->f32;
    const size_t row = (size_t)dim * dtype_size(dtype);
    part p = {.table = table, .bytes = 2 * (size_t)keys * row};
    p.data = zeros(p.bytes);
    p.copy = zeros(p.bytes);
    rng r = rng_new(1);
    for (int64_t i = 0; i < 1024 * dim; i++)
        element_put(p.data, i, dtype, rng_gauss(&r));
    for (size_t at = 1024 * row; at < p.bytes; at += 1024 * row)
        memcpy(p.data + at, p.data, p.bytes - at < 1024 * row ? p.bytes - at : 1024 * row);
    ha_rows q = {p.data, dim, NULL, 0, dtype};
    p.step = (ha_in_place){.ldq = ha_ldq(a, dim), .k = q, .v = q, .rows = rows, .nkeys = keys,
                           .head_dim = dim, .head_dim_v = dim, .scale = 1.4427f / (float)dim,
                           .ldacc = ha_padded_columns(a, dim)};
    p.step.v.first = keys;
    void *tile = zeros((size_t)(ha_round_up(rows, a->mr) * p.step.ldq) * 4);
    a->load_q(tile, &q, rows, dim);
    p.step.q = tile;
    p.step.acc = zeros((size_t)(rows * p.step.ldacc) * 4);
    return p;
}

static void part_free(part *p)
{
    free(p->data);
    free(p->copy);
    free((void *)(uintptr_t)p->step.q);
    free(p->step.acc);
}

static void bench_shape(const ha_kernels *table, hyperattn_dtype dtype, int rows, int dim,
                        int threads)
{
    void (*const works[])(part *p) = {copy, read_all, attend};
    part parts[MOST_THREADS];
    double seconds[3][ROUNDS], bytes = 0, rate[3];
    for (int i = 0; i < threads; i++) {
        parts[i] = part_new(table, dtype, rows, dim, KEYS / threads);
        parts[i].step.m = parts[i].m;
        parts[i].step.l = parts[i].l;
        bytes += (double)parts[i].bytes;
    }
    for (int round = 0; round < ROUNDS; round++)
        for (int w = 0; w < 3; w++)
            seconds[w][round] = seconds_of(works[w], parts, threads);
    for (int w = 0; w < 3; w++) {
        qsort(seconds[w], ROUNDS, sizeof(double), compare);
        rate[w] = 1e-9 * bytes * (w == 0 ? 2 : 1) / seconds[w][ROUNDS / 2];
    }
    printf("  %7d  %5s  %4d  %8d  %7.1f  %5.1f  %5.1f GB/s, %3.0f%% of the copy\n", threads,
           dtype_name(dtype), rows, dim, rate[0], rate[1], rate[2], 100 * rate[2] / rate[0]);
    for (int i = 0; i < threads; i++)
        part_free(&parts[i]);
}

void kern_bench_memory(const ha_kernels *table)
{
    static const int some_rows[] = {1, 8}, dims[] = {64, 128};
    printf("  attend_in_place, %d keys; a copy counts what it reads and what it writes\n", KEYS);
    printf("  threads  dtype  rows  head_dim     copy   read  in place\n");
    for (int threads = 1; threads <= MOST_THREADS; threads++)
        for (int dtype = 0; dtype < 3; dtype++)
            for (int x = 0; x < 4; x++)
                bench_shape(table, (hyperattn_dtype)dtype, some_rows[x / 2], dims[x % 2], threads);
}
