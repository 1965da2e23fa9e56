/* SPDX-License-Identifier: Apache-2.0
 *
 * Tests of dot_rows.
 */
#include <math.h>

#include "kern_source.h"

/* Two sources, which may be of different dtypes, against float64. */
static const char *dot_rows_case(const kern_run *run, rng *r, const void *arg)
{
    const rows_shape *shape = arg;
    rows_shape other = *shape;
    other.indexed = (int)rng_below(r, 2);
    other.dtype = rng_below(r, 3) ? shape->dtype : (hyperattn_dtype)rng_below(r, 3);
    other.values = ORDINARY;
    rows_shape one = *shape;
    one.values = rng_below(r, 2) ? ORDINARY : ANYTHING;
    source a = source_new(&one, run->arith, r), b = source_new(&other, run->arith, r);
    guarded dot = kern_floats(shape->rows, shape->at);
    run->table->dot_rows((float *)dot.data, &a.rows, &b.rows, shape->rows, shape->n);
    kern_worst w = {0};
    for (int64_t i = 0; i < shape->rows; i++) {
        double sum = 0, size = 0;
        for (int64_t c = 0; c < shape->n; c++) {
            double term = (double)source_value(&a, i, c) * (double)source_value(&b, i, c);
            sum += term;
            size += isfinite(term) ? fabs(term) : 0;
        }
        if (size < 0x1p127) /* else f32 may overflow, or not */
            kern_near(&w, "dot", 0, i, sum, ((const float *)dot.data)[i],
                      0x1p-24 * (double)(shape->n + 2) * size + 0x1p-140);
    }
    const char *why = kern_verdict(&w);
    if (!why)
        why = guarded_check(&dot);
    guarded_free(&dot);
    source_free(&a);
    source_free(&b);
    return why;
}

void kern_dot_rows(const kern_run *run)
{
    for (int dtype = 0; dtype < 3; dtype++) {
        const rows_shape shape = {.dtype = (hyperattn_dtype)dtype};
        kern_sweep_rows(run, dot_rows_case, shape, run->arith->lanes, 40);
    }
}
