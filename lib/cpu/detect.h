/* SPDX-License-Identifier: Apache-2.0
 *
 * MULTIPOLE's detector: rows that want keys of their own. A key's score is guessed from that of its
 * cell's column and from codes of what the query and the key's deviation from the column are in a
 * few directions (algo/basis.h). Keys whose guess comes near to what the row sees in all are scored
 * exactly and become private (cpu/private.h).
 */
#ifndef HA_DETECT_H
#define HA_DETECT_H

#include <math.h>

#include "algo/basis.h"
#include "cpu/cells.h"

/* The directions of an epoch, for one query head. */
typedef struct ha_epoch_basis {
    int usable;
    float *packed[2]; /* of queries, of keys */
    float factor;     /* from a key's projection to a code */
    float left;       /* standard deviation of scores that codes leave out, as log2, */
    float size;       /* of queries whose projections are so long */
} ha_epoch_basis;

typedef struct ha_detector {
    ha_epoch_basis *epochs; /* by the number of their first era */
    /* of the era at work: */
    uint8_t *codes; /* of keys: [cells][blocks] */
    uint8_t *boxes; /* that they lie in: see ha_scan */
    float *columns; /* packed keys of the cells' columns */
} ha_detector;

/* The nearest number of a code; 0 for a NaN. */
static inline int ha_code_of(float x)
{
    if (x >= HA_CODE_LARGEST)
        return HA_CODE_LARGEST;
    return x <= -HA_CODE_LARGEST ? -HA_CODE_LARGEST : x == x ? (int)(x + copysignf(0.5f, x)) : 0;
}

/* Blocks of codes that a cell has. */
static inline int ha_code_blocks(const ha_recipe *r)
{
    return (int)((r->cell + HA_CODE_KEYS - 1) / HA_CODE_KEYS);
}

typedef struct ha_detectors {
    ha_detector *heads; /* [in flight][group] */
    struct ha_detect_thread *threads;
} ha_detectors;

/* Whether the plan has detectors at all. */
int ha_detects(const ha_cpu_plan *plan);

void ha_detectors_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads, ha_detectors *d);

/* Finds directions for an epoch, from its queries and the keys that all its rows see. */
void ha_detector_begin(const ha_cpu_plan *plan, const ha_detectors *d, int thread,
                       ha_epoch_basis *directions, const ha_key_head *kh, int64_t head,
                       const ha_order *order, const ha_era *epoch);

/* Codes of a cell's keys, around its column. */
void ha_detector_encode(const ha_cpu_plan *plan, const ha_detectors *d, int thread,
                        const ha_detector *det, const ha_epoch_basis *directions,
                        const ha_key_head *kh, const ha_cells *cells, const ha_cell *cell);

/* Packs the columns of the n cells from `first` on, which begin a panel, and clears the boxes of
 * those sets of cells that the panel is made of. */
void ha_detector_open(const ha_cpu_plan *plan, const ha_detector *det, const ha_cells *cells,
                      int64_t first, int64_t n);

#endif
