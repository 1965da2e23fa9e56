/* SPDX-License-Identifier: Apache-2.0 */
#include "algo/basis.h"

#include <math.h>
#include <string.h>

#define R HA_BASIS

/* Steps of the subspace iteration. */
#define STEPS 8

/* What is added to the diagonal of C, as a part of its mean: directions without queries. */
#define RIDGE 1e-4f

/* c = L L', L in its lower part. */
static int cholesky(float *c, int64_t d)
{
    float trace = 0;
    for (int64_t i = 0; i < d; i++)
        trace += c[i * d + i];
    if (!(trace > 0) || isinf(trace))
        return 0;
    for (int64_t i = 0; i < d; i++)
        c[i * d + i] += RIDGE * trace / (float)d;
    for (int64_t i = 0; i < d; i++)
        for (int64_t j = 0; j <= i; j++) {
            float sum = c[i * d + j];
            for (int64_t k = 0; k < j; k++)
                sum -= c[i * d + k] * c[j * d + k];
            if (i == j && !(sum > 0))
                return 0;
            c[i * d + j] = i == j ? sqrtf(sum) : sum / c[j * d + j];
        }
    return 1;
}

/* out = a b, [d][d] both. */
static void multiply(float *out, const float *a, const float *b, int64_t d)
{
    memset(out, 0, (size_t)(d * d) * sizeof *out);
    for (int64_t i = 0; i < d; i++)
        for (int64_t x = 0; x < d; x++)
            for (int64_t j = 0; j < d; j++)
                out[i * d + j] += a[i * d + x] * b[x * d + j];
}

/* out = a v, [d][d] by [d][R]. */
static void multiply_columns(float *out, const float *a, const float *v, int64_t d)
{
    for (int64_t i = 0; i < d; i++) {
        float sum[R] = {0};
        for (int64_t x = 0; x < d; x++)
            for (int j = 0; j < R; j++)
                sum[j] += a[i * d + x] * v[x * R + j];
        memcpy(out + i * R, sum, sizeof sum);
    }
}

/* t = L' m L; below is L without what lies above its diagonal. */
static void whiten(float *t, float *below, float *product, const float *c, const float *m,
                   int64_t d)
{
    for (int64_t i = 0; i < d; i++)
        for (int64_t j = 0; j < d; j++)
            below[i * d + j] = j <= i ? c[i * d + j] : 0;
    multiply(product, m, below, d);
    memset(t, 0, (size_t)(d * d) * sizeof *t);
    for (int64_t x = 0; x < d; x++)
        for (int64_t i = 0; i <= x; i++)
            for (int64_t j = 0; j < d; j++)
                t[i * d + j] += below[x * d + i] * product[x * d + j];
}

/* Takes out of column j of v what it has of those before it, which are orthonormal. */
static void project_out(float *v, int64_t d, int64_t j)
{
    float dot[R] = {0};
    for (int64_t i = 0; i < d; i++)
        for (int k = 0; k < R; k++)
            dot[k] += v[i * R + j] * v[i * R + k];
    for (int64_t i = 0; i < d; i++)
        for (int64_t k = 0; k < j; k++)
            v[i * R + j] -= dot[k] * v[i * R + k];
}

/* The columns of v, [d][R], become orthonormal; those that vanish become zero. */
static void orthonormalize(float *v, int64_t d)
{
    for (int64_t j = 0; j < R; j++) {
        float length = 0;
        project_out(v, d, j);
        project_out(v, d, j); /* and what rounding has left of that */
        for (int64_t i = 0; i < d; i++)
            length += v[i * R + j] * v[i * R + j];
        length = length > 0 ? 1 / sqrtf(length) : 0;
        for (int64_t i = 0; i < d; i++)
            v[i * R + j] *= length;
    }
}

/* v: the leading R eigenvectors of t, from the axes in which t is largest; value: eigenvalues. */
static void leading(float *v, float *value, float *next, const float *t, int64_t d)
{
    uint8_t used[HA_BASIS_DIM] = {0};
    memset(v, 0, (size_t)(d * R) * sizeof *v);
    for (int64_t j = 0; j < R && j < d; j++) {
        int64_t best = -1;
        for (int64_t i = 0; i < d; i++)
            if (!used[i] && (best < 0 || t[i * d + i] > t[best * d + best]))
                best = i;
        used[best] = 1;
        v[best * R + j] = 1;
    }
    for (int step = 0; step < STEPS; step++) {
        multiply_columns(next, t, v, d);
        memcpy(v, next, (size_t)(d * R) * sizeof *v);
        orthonormalize(v, d);
    }
    multiply_columns(next, t, v, d);
    for (int64_t j = 0; j < R; j++) {
        value[j] = 0;
        for (int64_t i = 0; i < d; i++)
            value[j] += v[i * R + j] * next[i * R + j];
    }
}

/* Column j of x, [d][R], becomes L^-T of it. */
static void solve_transposed(float *x, const float *l, int64_t d, int64_t j)
{
    for (int64_t i = d - 1; i >= 0; i--) {
        float sum = x[i * R + j];
        for (int64_t k = i + 1; k < d; k++)
            sum -= l[k * d + i] * x[k * R + j];
        x[i * R + j] = sum / l[i * d + i];
    }
}

int ha_basis_find(ha_basis *basis, float *c, float *m, int64_t d, float *scratch)
{
    float *t = scratch, *below = t + d * d, *product = below + d * d;
    float *v = product + d * d, *next = v + d * R, value[R], total = 0, kept = 0;
    if (!cholesky(c, d))
        return 0;
    whiten(t, below, product, c, m, d);
    for (int64_t i = 0; i < d; i++)
        total += t[i * d + i];
    if (!(total > 0) || isinf(total))
        return 0;
    leading(v, value, next, t, d);
    multiply_columns(basis->key, below, v, d);
    memcpy(basis->query, v, (size_t)(d * R) * sizeof *v);
    basis->strongest = basis->size = 0;
    for (int64_t j = 0; j < R; j++) {
        float e = value[j] > 0 ? value[j] : 0, root = sqrtf(sqrtf(e));
        kept += e;
        basis->size += sqrtf(e);
        basis->strongest = e > basis->strongest ? e : basis->strongest;
        solve_transposed(basis->query, below, d, j);
        for (int64_t i = 0; i < d; i++) {
            basis->query[i * R + j] *= root;
            basis->key[i * R + j] *= root > 0 ? 1 / root : 0;
        }
    }
    basis->strongest = sqrtf(basis->strongest);
    basis->size = sqrtf(basis->size);
    basis->left = total > kept ? total - kept : 0;
    return basis->strongest > 0 && isfinite(basis->strongest);
}
