/* SPDX-License-Identifier: Apache-2.0
 *
 * Sources of rows for the kernels that read them, and what a kernel packs of each value.
 */
#ifndef KERN_SOURCE_H
#define KERN_SOURCE_H

#include "kern.h"

typedef enum rows_values {
    ANYTHING, /* ordinary numbers among random bits: subnormal, huge, Inf, NaN */
    FINITE,   /* the same, finite when packed */
    ORDINARY,
    EVERY_PATTERN, /* of 16 bits, counted on; of f32 the upper half, with one lower half a round */
} rows_values;

/* Lower halves of an f32 around a tie, and the same tie for a NaN whose payload lies there. */
#define ROWS_LOWER_HALVES 6
extern const uint32_t rows_lower_halves[ROWS_LOWER_HALVES];

typedef struct rows_shape {
    hyperattn_dtype dtype;
    int64_t rows, n; /* of them, values in each */
    placement at;
    int indexed;
    rows_values values;
} rows_shape;

/* Rows in guarded memory, read-only, among others that hold signalling NaNs. */
typedef struct source {
    guarded data, index;
    ha_rows rows;
    int64_t count, n;
} source;

/* A source to be packed in the arithmetic a. */
source source_new(const rows_shape *shape, const ha_arith *a, rng *r);
void source_free(source *s);

int64_t source_row(const source *s, int64_t i);
/* Value c of row i; a zero outside the rows. */
float source_value(const source *s, int64_t i, int64_t c);
/* Its bits once packed in the arithmetic a: 32, or 16 of bf16. */
uint32_t source_packed(const source *s, const ha_arith *a, int64_t i, int64_t c);
/* Whether every value is finite once packed. */
int source_finite(const source *s, const ha_arith *a);

/* All widths at the row counts where tails begin and end, and all row counts at two widths. block:
 * rows of a panel; most: rows of the largest case. */
void kern_sweep_rows(const kern_run *run, kern_case *verify, rows_shape shape, int block, int most);

#endif
