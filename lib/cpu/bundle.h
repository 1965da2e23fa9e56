/* SPDX-License-Identifier: Apache-2.0
 *
 * What the rows of a bundle see of their past: some keys exactly, and columns that stand for all
 * others. The bundle's mean query scores the cells; the heaviest are candidates, whose keys it
 * scores one by one. Selected are the keys that many rows hit (cpu/hits.h) or, without a detector,
 * the candidates' heaviest ones. What is left of the candidates is expanded around the mean query;
 * the other cells are moved there and merged into far cells, from which selected keys are taken
 * out. Where rows hit so much that this costs more than the past itself, all of it is selected.
 */
#ifndef HA_BUNDLE_H
#define HA_BUNDLE_H

#include "cpu/cells.h"
#include "cpu/columns.h"
#include "cpu/hits.h"

/* A bundle at work, and one thread's buffers for it. Scores are by the mean query, as log2. */
typedef struct ha_bundle_work {
    float *q;        /* its rows as f32, [rows][ldk] */
    int64_t nrows;
    uint8_t *finite; /* [rows]; rows that are not steer nothing */
    float *mean;     /* of the finite rows, [ldk] */
    /* cells */
    float *cell_score; /* s mean.kt; -inf: no key */
    int32_t *column;   /* of each cell, or -1: it has none */
    float *share;      /* log2 of the cell's part in its far cell */
    int32_t *place;    /* of a candidate's first key in keys; -1: no candidate */
    uint32_t *candidates;
    int64_t ncandidates;
    /* keys of the candidates */
    uint32_t *keys;
    float *key_score;
    uint8_t *gone;    /* [nkeys]: selected, or a sink */
    int64_t nkeys;
    /* selected keys of other cells, ascending: */
    uint32_t *apart, *apart_key; /* their positions, and they */
    float *apart_score;
    int64_t napart;
    /* results */
    int all; /* all of the past is selected: there are no columns, and hits mean nothing */
    uint32_t *selected, *position; /* keys, and their positions where hits were looked for */
    int64_t nselected;
    ha_columns columns; /* f32 rows: */
    float *column_key, *column_value;
    float *column_mass; /* log2 of all that a column stands for, as the mean query sees it */
    /* for one choice or expansion */
    uint32_t *rank, *index;
    float *w, *tilt, *sum;
} ha_bundle_work;

/* The most that a bundle of any sequence can have. */
typedef struct ha_bundle_sizes {
    int64_t cells;
    int64_t candidates, keys; /* cells, and their keys */
    int64_t selected, columns;
} ha_bundle_sizes;

ha_bundle_sizes ha_largest_bundle(const ha_cpu_plan *plan);

void ha_bundle_carve(ha_carver *c, const ha_cpu_plan *plan, ha_bundle_work *w);

/* Loads rows. */
void ha_bundle_load(const ha_cpu_plan *plan, ha_bundle_work *w, const ha_query_rows *at);

/* Forms the mean of the rows that are loaded. */
void ha_bundle_mean(const ha_cpu_plan *plan, ha_bundle_work *w);

/* The past of a bundle. */
typedef struct ha_past {
    const ha_key_head *kh;
    const ha_order *order;
    const ha_cells *cells;
    const ha_era *era;
    const ha_recipe *r;
    int64_t keys, ncells;
} ha_past;

/* Chooses keys (cpu/choices.h) and forms columns. hits: of its rows, of which those are left that
 * are not selected; or NULL. */
void ha_bundle_columns(const ha_cpu_plan *plan, ha_bundle_work *w, const ha_past *past,
                       ha_hits *hits);

#endif
