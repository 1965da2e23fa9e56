/* SPDX-License-Identifier: Apache-2.0
 *
 * What hyperattn compare adds to a measurement: errors and stages. One row is one length.
 */
#ifndef BENCH_COMPARE_H
#define BENCH_COMPARE_H

#include <stdbool.h>
#include <stdint.h>

#include "attn.h"
#include "measure.h"
#include "profile.h"

/* Rows of each head that hyperattn_measure computes. */
enum { COMPARE_ROWS = 128 };

typedef struct comparison {
    measurement m;
    outcome reference;    /* exact, f32: only where that of m is not */
    ha_profile *profiles; /* of HyperAttention's measured calls */
} comparison;

/* Buffers, after measurement_open and with lengths: the last is the longest, 0: all rows. Returns
 * an exit status; compare_close is needed after failures too, of measurement_open as well. */
int compare_open(comparison *c);
void compare_close(comparison *c);

/* Measures the first rows (0: all) and adds its row to the results. Returns an exit status. */
int compare_length(comparison *c, int64_t rows);

#endif
