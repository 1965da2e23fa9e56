/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows in memory for the kernels that read rows.
 */
#ifndef KERN_SOURCE_H
#define KERN_SOURCE_H

#include "kern.h"

typedef struct rows_shape {
    hyperattn_dtype dtype;
    int64_t rows, n; /* of them, values in each */
    placement at;
    int indexed;
} rows_shape;

/* Rows in guarded memory, read-only, among others that hold signalling NaNs. */
typedef struct source {
    guarded data, index;
    ha_rows rows;
    int64_t count, n;
} source;

enum { ORDINARY, FINITE, ANYTHING, EVERY_PATTERN };

/* Row i's place among the rows of the data. */
int64_t source_row(const source *s, int64_t i);

source source_new(const rows_shape *shape, rng *r, int kind);
void source_free(source *s);

/* Bits of value c of row i; a zero outside the rows. */
uint32_t source_bits(const source *s, int64_t i, int64_t c);
float source_value(const source *s, int64_t i, int64_t c);

#endif
