/* SPDX-License-Identifier: Apache-2.0
 *
 * MULTIPOLE's private keys: those that a detector finds for one row enter it with exp(exact score)
 * less what their column says of them already. The sums of columns stay as they are.
 */
#ifndef HA_PRIVATE_H
#define HA_PRIVATE_H

#include "cpu/bundle.h"

typedef struct ha_privates {
    struct ha_private_thread *threads;
} ha_privates;

void ha_privates_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads, ha_privates *privates);

/* A bundle whose rows have seen all else, as s says. */
typedef struct ha_open_bundle {
    const ha_query_rows *at;
    const ha_bundle_work *work;
    const ha_cells *cells;
    const ha_order *order;
    const ha_era *era;
    const ha_hits *hits; /* private ones */
    ha_softmax *s;
} ha_open_bundle;

/* Adds the private keys of its rows. */
void ha_private_keys(const ha_cpu_plan *plan, const ha_privates *privates, int thread,
                     const ha_open_bundle *bundle);

#endif
