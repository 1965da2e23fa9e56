/* SPDX-License-Identifier: Apache-2.0
 *
 * Two builds of the library beside each other, in one process and in turn: what a change does to
 * speed, workspace and results, on a machine that is not quiet.
 *
 *   bench/beside OLD/libhyperattn.so NEW/libhyperattn.so [PART-OF-A-NAME]
 *
 * Not installed, no options: cells[] says what is measured. Threads by OMP_NUM_THREADS.
 */
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "hyperattn.h"

/* ---- what is measured ---------------------------------------------------------------------- */

typedef struct cell {
    const char *name;
    int64_t heads, heads_kv, nq, nk, d;
    int causal, hyper, backward;
    int64_t more, length; /* sequences beside the first, and their rows and keys */
} cell;

static const cell cells[] = {
    {"exact 1024", 1, 1, 1024, 1024, 64, 0, 0, 0, 0, 0},
    {"exact 1024 causal", 1, 1, 1024, 1024, 64, 1, 0, 0, 0, 0},
    {"exact 8192", 1, 1, 8192, 8192, 64, 0, 0, 0, 0, 0},
    {"exact 8192 causal", 1, 1, 8192, 8192, 64, 1, 0, 0, 0, 0},
    {"exact 8192 d128 causal", 1, 1, 8192, 8192, 128, 1, 0, 0, 0, 0},
    {"exact 4096 x12 causal", 12, 12, 4096, 4096, 64, 1, 0, 0, 0, 0},
    {"exact 32768", 1, 1, 32768, 32768, 64, 0, 0, 0, 0, 0},
    {"hyper 8192", 1, 1, 8192, 8192, 64, 0, 1, 0, 0, 0},
    {"hyper 8192 causal", 1, 1, 8192, 8192, 64, 1, 1, 0, 0, 0},
    {"hyper 131072", 1, 1, 131072, 131072, 64, 0, 1, 0, 0, 0},
    {"hyper 131072 causal", 1, 1, 131072, 131072, 64, 1, 1, 0, 0, 0},
    {"hyper 16384 x12", 12, 12, 16384, 16384, 64, 0, 1, 0, 0, 0},
    {"backward exact 1024 causal", 1, 1, 1024, 1024, 64, 1, 0, 1, 0, 0},
    {"backward exact 8192", 1, 1, 8192, 8192, 64, 0, 0, 1, 0, 0},
    {"backward exact 8192 causal", 1, 1, 8192, 8192, 64, 1, 0, 1, 0, 0},
    {"backward exact 2048 x12 causal", 12, 12, 2048, 2048, 64, 1, 0, 1, 0, 0},
    {"backward hyper 16384", 1, 1, 16384, 16384, 64, 0, 1, 1, 0, 0},
    {"backward hyper 16384 causal", 1, 1, 16384, 16384, 64, 1, 1, 1, 0, 0},
    {"backward hyper 131072", 1, 1, 131072, 131072, 64, 0, 1, 1, 0, 0},
    {"small 16", 1, 1, 16, 16, 64, 0, 0, 0, 0, 0},
    {"small 128", 1, 1, 128, 128, 64, 0, 0, 0, 0, 0},
    {"small 256", 1, 1, 256, 256, 64, 0, 0, 0, 0, 0},
    {"decode 1 x 256k", 1, 1, 1, 262144, 64, 1, 0, 0, 0, 0},
    {"decode 8 on 1 x 256k", 8, 1, 1, 262144, 64, 1, 0, 0, 0, 0},
    {"chunk 64 x 256k", 1, 1, 64, 262144, 64, 1, 0, 0, 0, 0},
    {"ragged 3000 x 8", 1, 1, 8, 8, 64, 1, 0, 0, 2999, 8},
    {"ragged 32768 + 1000 x 16", 1, 1, 32768, 32768, 64, 1, 1, 0, 1000, 16},
    {"backward ragged 262144 + 1000 x 16", 1, 1, 262144, 262144, 64, 1, 1, 1, 1000, 16},
    {"backward 16 on 1 x 1024 causal", 16, 1, 1024, 1024, 64, 1, 0, 1, 0, 0},
    {"backward 64 on 1 x 1024 causal", 64, 1, 1024, 1024, 64, 1, 0, 1, 0, 0},
    {"backward 256 on 1 x 1024 causal", 256, 1, 1024, 1024, 64, 1, 0, 1, 0, 0},
};

/* ---- a library ------------------------------------------------------------------------------- */

typedef struct library {
    hyperattn_ctx *ctx;
    hyperattn_plan *plan;
    void *workspace;
    size_t workspace_bytes;
    float *out, *lse;
    hyperattn_status (*ctx_create)(hyperattn_ctx **, const hyperattn_ctx_params *);
    void (*problem_init)(hyperattn_problem *);
    void (*params_init)(hyperattn_params *);
    hyperattn_status (*plan_create)(hyperattn_plan **, hyperattn_ctx *, const hyperattn_problem *,
                                    const hyperattn_params *);
    void (*plan_destroy)(hyperattn_plan *);
    size_t (*plan_workspace)(const hyperattn_plan *, int);
    hyperattn_status (*forward)(const hyperattn_plan *, const void *, const void *, const void *,
                                void *, float *, void *);
    hyperattn_status (*backward)(const hyperattn_plan *, const void *, const void *, const void *,
                                 const void *, const float *, const void *, void *, void *, void *,
                                 void *);
    const char *(*last_error)(void);
} library;

static void die(const char *what)
{
    fprintf(stderr, "beside: %s\n", what);
    exit(1);
}

static void *find(void *handle, const char *name)
{
    void *at = dlsym(handle, name);
    if (!at)
        die(dlerror());
    return at;
}

static library load(const char *path)
{
    library l = {.ctx = NULL};
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!handle)
        die(dlerror());
    *(void **)&l.ctx_create = find(handle, "hyperattn_ctx_create");
    *(void **)&l.problem_init = find(handle, "hyperattn_problem_init");
    *(void **)&l.params_init = find(handle, "hyperattn_params_init");
    *(void **)&l.plan_create = find(handle, "hyperattn_plan_create");
    *(void **)&l.plan_destroy = find(handle, "hyperattn_plan_destroy");
    *(void **)&l.plan_workspace = find(handle, "hyperattn_plan_workspace");
    *(void **)&l.forward = find(handle, "hyperattn_forward");
    *(void **)&l.backward = find(handle, "hyperattn_backward");
    *(void **)&l.last_error = find(handle, "hyperattn_last_error");
    if (l.ctx_create(&l.ctx, NULL))
        die(l.last_error());
    return l;
}

/* ---- a cell ---------------------------------------------------------------------------------- */

typedef struct data {
    float *q, *k, *v, *dout, *dq, *dk, *dv;
    int64_t rows, keys, *cu_q, *cu_k;
} data;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* In huge pages, and touched. */
static void *memory(size_t bytes)
{
    size_t page = (size_t)2 << 20;
    void *p = aligned_alloc(page, (bytes + page) / page * page);
    if (!p)
        die("out of memory");
    return memset(p, 0, bytes);
}

/* Roughly normal numbers. */
static float *numbers(int64_t n, uint64_t seed)
{
    float *x = memory((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) {
        float sum = 0;
        for (int j = 0; j < 4; j++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            sum += (float)(seed >> 40) * 0x1p-24f - 0.5f;
        }
        x[i] = sum * 1.7f;
    }
    return x;
}

static data data_new(const cell *c)
{
    data x = {.rows = c->nq + c->more * c->length, .keys = c->nk + c->more * c->length};
    int64_t nq = c->heads * x.rows * c->d, nk = c->heads_kv * x.keys * c->d;
    x.q = numbers(nq, 1);
    x.k = numbers(nk, 2);
    x.v = numbers(nk, 3);
    x.dout = numbers(nq, 4);
    x.dq = memory((size_t)nq * 4);
    x.dk = memory((size_t)nk * 4);
    x.dv = memory((size_t)nk * 4);
    x.cu_q = memory(((size_t)c->more + 2) * sizeof *x.cu_q);
    x.cu_k = memory(((size_t)c->more + 2) * sizeof *x.cu_k);
    for (int64_t i = 0; i <= c->more; i++) {
        x.cu_q[i + 1] = x.cu_q[i] + (i ? c->length : c->nq);
        x.cu_k[i + 1] = x.cu_k[i] + (i ? c->length : c->nk);
    }
    return x;
}

static void data_free(data *x)
{
    void *all[] = {x->q, x->k, x->v, x->dout, x->dq, x->dk, x->dv, x->cu_q, x->cu_k};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

/* A plan and what a call needs, with the output of forward. */
static void prepare(library *l, const cell *c, const data *x)
{
    hyperattn_problem p;
    hyperattn_params params;
    l->problem_init(&p);
    l->params_init(&params);
    p.batch = c->more + 1;
    p.nheads = c->heads;
    p.nheads_kv = c->heads_kv;
    p.seqlen_q = c->nq > c->length ? c->nq : c->length;
    p.seqlen_k = c->nk > c->length ? c->nk : c->length;
    p.head_dim = c->d;
    p.causal = c->causal;
    if (c->more) {
        p.cu_seqlens_q = x->cu_q;
        p.cu_seqlens_k = x->cu_k;
    }
    params.method = c->hyper ? HYPERATTN_HYPER : HYPERATTN_EXACT;
    if (l->plan_create(&l->plan, l->ctx, &p, &params))
        die(l->last_error());
    l->workspace_bytes = l->plan_workspace(l->plan, c->backward);
    l->workspace = memory(l->workspace_bytes + 64);
    l->out = memory((size_t)(c->heads * x->rows * c->d) * sizeof(float));
    l->lse = memory((size_t)(c->heads * x->rows) * sizeof(float));
    if (l->forward(l->plan, x->q, x->k, x->v, l->out, l->lse, NULL))
        die(l->last_error());
}

static void finish(library *l)
{
    l->plan_destroy(l->plan);
    free(l->workspace);
    free(l->out);
    free(l->lse);
}

/* Seconds of one call, of as many as fill a few milliseconds. */
static double measure(const library *l, const cell *c, const data *x, int calls)
{
    double start = now();
    for (int i = 0; i < calls; i++) {
        hyperattn_status status =
            c->backward ? l->backward(l->plan, x->q, x->k, x->v, l->out, l->lse, x->dout, x->dq,
                                      x->dk, x->dv, l->workspace)
                        : l->forward(l->plan, x->q, x->k, x->v, l->out, l->lse, l->workspace);
        if (status)
            die(l->last_error());
    }
    return (now() - start) / calls;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int n)
{
    qsort(x, (size_t)n, sizeof *x, by_size);
    return x[n / 2];
}

static double difference(const library l[2], int64_t n)
{
    double apart = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        double a = (double)l[0].out[i], b = (double)l[1].out[i];
        apart += (a - b) * (a - b);
        size += a * a;
    }
    return sqrt(apart / size);
}

static void run(library l[2], const cell *c)
{
    enum { MOST = 31 };
    double seconds[2][MOST], ratio[MOST];
    data x = data_new(c);
    prepare(&l[0], c, &x);
    prepare(&l[1], c, &x);
    measure(&l[0], c, &x, 1);
    double once = measure(&l[1], c, &x, 1);
    int calls = once < 2e-3 ? (int)(4e-3 / once) + 1 : 1;
    int rounds = once < 0.1 ? MOST : once < 0.5 ? 11 : 5;
    for (int r = 0; r < rounds; r++) {
        for (int i = 0; i < 2; i++)
            seconds[i][r] = measure(&l[i], c, &x, calls);
        ratio[r] = seconds[1][r] / seconds[0][r];
    }
    double was = median(seconds[0], rounds), is = median(seconds[1], rounds);
    printf("%-36s %11.4f ms %11.4f ms  ratio %.3f  workspace %8.2f MB %8.2f MB  apart %.1e\n",
           c->name, was * 1e3, is * 1e3, median(ratio, rounds),
           (double)l[0].workspace_bytes * 1e-6, (double)l[1].workspace_bytes * 1e-6,
           difference(l, c->heads * x.rows * c->d));
    fflush(stdout);
    finish(&l[0]);
    finish(&l[1]);
    data_free(&x);
}

int main(int argc, char **argv)
{
    if (argc != 3 && argc != 4)
        die("usage: beside OLD/libhyperattn.so NEW/libhyperattn.so [PART-OF-A-NAME]");
    library l[2] = {load(argv[1]), load(argv[2])};
    for (size_t i = 0; i < sizeof cells / sizeof *cells; i++)
        if (argc == 3 || strstr(cells[i].name, argv[3]))
            run(l, &cells[i]);
    return 0;
}
