/* SPDX-License-Identifier: Apache-2.0 */
#include "spectral.h"

#include <math.h>
#include <stdbool.h>

#include "algo/philox.h"
#include "memory.h"
#include "message.h"

static const double dense_tolerance = 1e-7, softmax_tolerance = 1e-5;

enum { DENSE_ITERATIONS = 2000, SOFTMAX_ITERATIONS = 100 };

/* Length of x; x = x / that, where it is not 0. */
static double normalize(double *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    double length = sqrt(sum);
    for (int64_t i = 0; i < n && length > 0; i++)
        x[i] /= length;
    return length;
}

/* Whether an iteration from `before` to `now` still found something; a NaN ends it. */
static bool grows(double before, double now, double tolerance)
{
    return now > before * (1 + tolerance);
}

/* ---- dense ---------------------------------------------------------------------------------- */

typedef struct dense {
    const float *a, *b;
    int64_t rows, dim;
} dense;

/* next = M'M x; returns |M x|. */
static double dense_step(const dense *m, const double *x, double *next)
{
    double sum = 0;
    for (int64_t c = 0; c < m->dim; c++)
        next[c] = 0;
    for (int64_t i = 0; i < m->rows; i++) {
        const float *a = m->a + i * m->dim, *b = m->b ? m->b + i * m->dim : NULL;
        double y = 0;
        for (int64_t c = 0; c < m->dim; c++)
            y += ((double)a[c] - (b ? b[c] : 0)) * x[c];
        for (int64_t c = 0; c < m->dim; c++)
            next[c] += ((double)a[c] - (b ? b[c] : 0)) * y;
        sum += y * y;
    }
    return sqrt(sum);
}

double spectral_dense(const float *a, const float *b, int64_t rows, int64_t dim)
{
    const dense m = {a, b, rows, dim};
    double *x = buffer_alloc(2 * (size_t)dim * sizeof *x, "power iteration");
    if (!x)
        return -1;
    double *next = x + dim, before = 0, norm = 0;
    /* no direction is left out, and none is preferred */
    for (int64_t c = 0; c < dim; c++)
        x[c] = ha_fraction(ha_philox(0, (uint32_t)c, 0, 0, 0).w[0]) - 0.5;
    normalize(x, dim);
    for (int i = 0; i < DENSE_ITERATIONS; i++) {
        norm = dense_step(&m, x, next);
        normalize(next, dim);
        for (int64_t c = 0; c < dim; c++)
            x[c] = next[c];
        if (!grows(before, norm, dense_tolerance))
            break;
        before = norm;
    }
    buffer_free(x);
    return norm;
}

/* ---- softmax -------------------------------------------------------------------------------- */

static double length_of(const float *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i] * x[i];
    return sqrt(sum);
}

int spectral_softmax(double *norm, softmax *s)
{
    double before = 0;
    /* P has no negative entries, so neither has the vector that is looked for */
    for (int64_t j = 0; j < s->nk; j++)
        s->x[j] = (float)(1 / sqrt((double)s->nk));
    for (int i = 0; i < SOFTMAX_ITERATIONS; i++) {
        int status = softmax_times(s);
        if (status)
            return status;
        *norm = length_of(s->y, s->nq) / length_of(s->x, s->nk);
        if (!grows(before, *norm, softmax_tolerance))
            break;
        before = *norm;
        status = softmax_transposed(s);
        if (status)
            return status;
        double length = length_of(s->xt, s->nk);
        for (int64_t j = 0; j < s->nk; j++)
            s->x[j] = (float)(s->xt[j] / length);
    }
    return STATUS_OK;
}
