/* SPDX-License-Identifier: Apache-2.0 */
#include "error.h"

#include <math.h>

#include "convert.h"

enum { CHUNK = 256 };

typedef struct sums {
    double diff, norm; /* squares */
} sums;

static sums add_row(const char *approx, hyperattn_dtype dtype, const float *exact, int64_t dim)
{
    float value[CHUNK];
    sums s = {0, 0};
    for (int64_t c = 0; c < dim; c += CHUNK) {
        int64_t n = dim - c < CHUNK ? dim - c : CHUNK;
        to_f32(value, approx + (size_t)c * dtype_size(dtype), dtype, n);
        for (int64_t e = 0; e < n; e++) {
            double x = exact[c + e], diff = value[e] - x;
            s.diff += diff * diff;
            s.norm += x * x;
        }
    }
    return s;
}

static double ratio(sums s)
{
    if (s.norm == 0 && s.diff == 0)
        return 0;
    return sqrt(s.diff / s.norm);
}

/* a > b, where NaN is larger than anything */
static int worse(double a, double b)
{
    return !isnan(b) && !(a <= b);
}

void error_measure(error_stats *stats, const void *approx, hyperattn_dtype dtype,
                   const float *exact, const error_shape *shape, double *rel_of_head)
{
    sums total = {0, 0};
    *stats = (error_stats){0};
    for (int64_t head = 0; head < shape->heads; head++) {
        sums of_head = {0, 0};
        for (int64_t row = 0; row < shape->rows; row++) {
            size_t at = (size_t)(head * shape->head_stride + row * shape->dim);
            sums s = add_row((const char *)approx + at * dtype_size(dtype), dtype, exact + at,
                             shape->dim);
            of_head.diff += s.diff;
            of_head.norm += s.norm;
            if (worse(ratio(s), stats->max_row_error)) {
                stats->max_row_error = ratio(s);
                stats->worst_head = head;
                stats->worst_row = row;
            }
        }
        total.diff += of_head.diff;
        total.norm += of_head.norm;
        if (rel_of_head)
            rel_of_head[head] = ratio(of_head);
    }
    stats->rel_error = ratio(total);
}
