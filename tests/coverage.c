/* SPDX-License-Identifier: Apache-2.0
 *
 * How often the interval of hyperattn_measure holds the relative error, over 1000 draws of rows:
 *
 *     make -C tests coverage && tests/coverage [ROWS] [Q.npy K.npy V.npy]...
 *
 * Without files, the generated families, causal and not, at ROWS rows (8192). Files are heads of
 * one sequence as bench/data has them, causal. bench/RESULTS.md has what it printed.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "measure_cases.h"
#include "npy.h"

enum { DRAWS = 1000 };

static int forward(tensors *t, const hyperattn_params *params)
{
    const char *why = tensors_run(t, params, NULL, 0);
    if (why)
        fprintf(stderr, "%s\n", why);
    return why == NULL;
}

/* Of one method against exact attention in f32. */
static void report(const char *name, tensors *t, int window, const float *exact)
{
    static const int64_t rows[] = {32, 128, 512};
    hyperattn_params params;
    hyperattn_params_init(&params);
    params.method = HYPERATTN_HYPER;
    params.window = window;
    if (!forward(t, &params))
        return;
    row_errors e = row_errors_of(t, exact);
    for (int i = 0; i < 3; i++) {
        const coverage c = coverage_of(&e, rows[i], DRAWS);
        printf("%-24s %6d %5lld %8.4f %8.4f %8.4f %8.4f  %5.1f %5.1f %5.1f\n", name, window,
               (long long)rows[i], e.truth, c.value, c.low, c.high, 100 * c.held, 100 * c.below,
               100 * c.above);
    }
    fflush(stdout);
    row_errors_free(&e);
}

static void compare(const char *name, tensors *t)
{
    hyperattn_params params;
    hyperattn_params_init(&params);
    size_t bytes = t->mem[T_OUT].size;
    float *exact = malloc(bytes);
    if (exact && forward(t, &params)) {
        memcpy(exact, t->mem[T_OUT].data, bytes);
        report(name, t, 0, exact);
        if (t->problem.causal)
            report(name, t, 256, exact);
    }
    free(exact);
}

static void generated(int64_t rows)
{
    for (int causal = 0; causal < 2; causal++)
        for (int f = 0; f < FAMILIES; f++) {
            char name[32];
            hyperattn_problem p = problem_of(1, rows, 64);
            p.causal = causal;
            tensors t = tensors_new(&p, AT_END);
            family_fill(&t, (family)f, 5);
            snprintf(name, sizeof name, "%s%s", family_name((family)f), causal ? ", causal" : "");
            compare(name, &t);
            tensors_free(&t);
        }
}

/* The values of a [heads, rows, dim] file, in a tensor of t that has them all. */
static int load(tensors *t, operand which, const char *path)
{
    char why[NPY_WHY];
    npy_info info;
    void *data;
    if (!npy_read(path, &info, &data, why)) {
        fprintf(stderr, "%s: %s\n", path, why);
        return 0;
    }
    hyperattn_dtype dtype = info.type == NPY_F32   ? HYPERATTN_F32
                            : info.type == NPY_U16 ? HYPERATTN_BF16
                                                   : HYPERATTN_F16;
    int fits = info.bytes == (size_t)t->elements[which] * dtype_size(dtype);
    for (int64_t i = 0; fits && i < t->elements[which]; i++)
        element_put(t->mem[which].data, i, HYPERATTN_F32, element_get(data, i, dtype));
    free(data);
    if (!fits)
        fprintf(stderr, "%s: another shape\n", path);
    return fits;
}

static int shape_of(const char *path, int64_t shape[3])
{
    char why[NPY_WHY];
    npy_info info;
    void *data;
    if (!npy_read(path, &info, &data, why)) {
        fprintf(stderr, "%s: %s\n", path, why);
        return 0;
    }
    free(data);
    for (int i = 0; i < 3 && info.rank == 3; i++)
        shape[i] = info.shape[i];
    return info.rank == 3;
}

static int real(char *const *path)
{
    int64_t q[3], k[3], v[3];
    if (!shape_of(path[0], q) || !shape_of(path[1], k) || !shape_of(path[2], v))
        return 0;
    hyperattn_problem p = problem_of(q[0], q[1], q[2]);
    p.nheads_kv = k[0];
    p.seqlen_k = k[1];
    p.head_dim_v = v[2];
    p.causal = 1;
    tensors t = tensors_new(&p, AT_END);
    int good = load(&t, T_Q, path[0]) && load(&t, T_K, path[1]) && load(&t, T_V, path[2]);
    if (good)
        compare(path[0] + (strlen(path[0]) > 24 ? strlen(path[0]) - 24 : 0), &t);
    tensors_free(&t);
    return good;
}

int main(int argc, char **argv)
{
    long long rows = argc == 2 ? atoll(argv[1]) : 8192;
    if (argc > 2 && argc % 3 != 1) {
        fprintf(stderr, "usage: coverage [ROWS] [Q.npy K.npy V.npy]...\n");
        return 2;
    }
    printf("%-24s %6s %5s %8s %8s %8s %8s  %5s %5s %5s\n", "input", "window", "rows", "truth",
           "estimate", "low", "high", "held", "below", "above");
    if (argc <= 2)
        generated(rows);
    for (int i = 1; argc > 2 && i < argc; i += 3)
        if (!real(argv + i))
            return 1;
    return 0;
}
