/* SPDX-License-Identifier: Apache-2.0 */
#include "quantile.h"

#include <math.h>
#include <stdlib.h>

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    if (isnan(x) || isnan(y))
        return (isnan(x) != 0) - (isnan(y) != 0);
    return (x > y) - (x < y);
}

int64_t quantile_sort(double *values, int64_t n)
{
    qsort(values, (size_t)n, sizeof *values, ascending);
    while (n > 0 && isnan(values[n - 1]))
        n--;
    return n;
}

double quantile(const double *sorted, int64_t n, double p)
{
    if (p == 0.5 && n % 2 == 0)
        return (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
    int64_t place = (int64_t)ceil(p * (double)n) - 1;
    return sorted[place < 0 ? 0 : place];
}
