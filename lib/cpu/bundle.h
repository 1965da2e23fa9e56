/* SPDX-License-Identifier: Apache-2.0
 *
 * What the rows of a bundle see of their past: some keys exactly, and columns that stand for all
 * others. Representatives of the bundle score the cells; the heaviest cells are candidates, whose
 * keys they score one by one; the heaviest keys are selected. What is left of the candidates is
 * expanded around the bundle's mean query, the other cells are moved there and merged into far
 * cells.
 */
#ifndef HA_BUNDLE_H
#define HA_BUNDLE_H

#include "cpu/cells.h"
#include "cpu/columns.h"

#define HA_REPRESENTATIVES 4

/* A bundle at work, and one thread's buffers for it. */
typedef struct ha_bundle_work {
    /* the rows */
    float *q;           /* [rows][ldk], f32 */
    uint32_t *finite;   /* rows that are finite: the others steer nothing */
    int64_t nfinite;
    /* what stands for them */
    float *centre;      /* [HA_REPRESENTATIVES][ldk] */
    float *mean;        /* [ldk], of the finite rows */
    float share[HA_REPRESENTATIVES]; /* of the finite rows; 0: not used */
    float near[HA_REPRESENTATIVES];  /* log2 of what its rows have seen up to now */
    uint8_t *nearest;   /* of each finite row: its representative */
    /* scores by representatives, and weights made of them */
    float *score, *weight; /* [cells or keys][HA_REPRESENTATIVES] */
    uint32_t *rank;
    /* choices */
    uint32_t *candidates; /* cells, ascending */
    int64_t ncandidates;
    uint8_t *is_candidate; /* [cells] */
    uint32_t *keys;        /* keys of the candidates, [candidates][cell] */
    int64_t nkeys;
    uint32_t *chosen;      /* places in keys, ascending */
    /* results: */
    uint32_t *selected; /* keys */
    int64_t nselected;
    ha_columns columns; /* of the cells: f32 rows */
    float *column_key, *column_value;
    /* for one expansion */
    float *w, *tilt;
    uint32_t *index;
} ha_bundle_work;

void ha_bundle_carve(ha_carver *c, const ha_cpu_plan *plan, ha_bundle_work *w);

/* Loads the rows and finds their representatives. */
void ha_bundle_load(const ha_cpu_plan *plan, ha_bundle_work *w, const ha_query_rows *at);

/* Chooses keys and forms columns. seen: the softmax of the rows up to now, sinks included. */
void ha_bundle_columns(const ha_cpu_plan *plan, ha_bundle_work *w, const ha_key_head *kh,
                       const ha_order *order, const ha_cells *cells, const ha_era *era,
                       int64_t past, const ha_softmax *seen);

#endif
