/* SPDX-License-Identifier: Apache-2.0
 *
 * MULTIPOLE's hits: keys of the past whose guessed score comes near to what one row of a bundle
 * sees in all. Those that many of its rows want are selected for the bundle (cpu/bundle.h), the
 * others become private (cpu/private.h).
 */
#ifndef HA_HITS_H
#define HA_HITS_H

#include "cpu/detect.h"

/* Most hits of one row. */
#define HA_MOST_HITS 1024

/* Where rows hit one of so many keys of their past, to look for them costs more than to attend to
 * the past as it is. They are crowded. */
#define HA_CROWDED 16

/* The longest past that can be. */
#define HA_CROWDED_PAST (HA_CROWDED * HA_MOST_HITS)

/* Rows that are scored against columns, and scanned, at a time: at most HA_SCAN_ROWS. */
static inline int64_t ha_rows_scored(const ha_cpu_plan *plan)
{
    return ha_round_up(16, plan->kernels->f32.mr);
}

/* A bundle's hits, sinks among them, and one thread's buffers for them. */
typedef struct ha_hits {
    uint32_t *position; /* of the past, ascending for each row */
    int64_t begin[HA_BUNDLE_ROWS + 1]; /* where a row's begin */
    uint8_t *votes;     /* rows that hit a position: [nk] */
    uint8_t *touched;   /* whether a cell was hit */
    int crowded;        /* then nothing else is known */
    /* of rows that are scanned together */
    float *projection;  /* [rows][HA_BASIS] */
    float *by_cell;     /* products with the columns of the era: [rows][sets of cells] */
    uint32_t *found;    /* [rows][HA_MOST_HITS] */
} ha_hits;

void ha_hits_carve(ha_carver *c, const ha_cpu_plan *plan, ha_hits *hits);

/* What rows are scanned for. */
typedef struct ha_scanned {
    const ha_key_head *kh;
    const ha_cells *cells;
    const ha_detector *det;
    const ha_epoch_basis *basis;
    int64_t past;
    const float *q;         /* rows as f32, [n][ldk] */
    const uint8_t *finite;  /* rows that are not hit nothing */
    int64_t n;
    float near; /* log2 of what rows see in all, as a multiple of their past */
} ha_scanned;

/* Rows that tell what `near` is for those behind them. */
#define HA_NEAR_ROWS 16

/* Guesses `near` from what n rows have seen near, as ha_softmax has it, and from their past. Those
 * are earlier rows than the ones that are scanned: a row's own near keys may steer it, but not the
 * other rows of its bundle, which may come before those keys. */
float ha_hits_near(const ha_cpu_plan *plan, ha_hits *hits, const ha_scanned *rows, const float *m,
                   const float *l);

/* Finds the hits of rows, or that they are crowded. */
void ha_hits_find(const ha_cpu_plan *plan, ha_hits *hits, const ha_scanned *rows);

/* Leaves out the hits of positions that have so many votes. */
void ha_hits_keep_below(ha_hits *hits, int votes, int64_t rows);

#endif
