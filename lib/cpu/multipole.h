/* SPDX-License-Identifier: Apache-2.0
 *
 * MULTIPOLE on the CPU, after the leaves have been near: era by era, the cells are expanded, and
 * each bundle of rows attends to the sinks, to the keys that it selects, and to the columns that
 * stand for all others.
 */
#ifndef HA_MULTIPOLE_H
#define HA_MULTIPOLE_H

#include "cpu/private.h"

typedef struct ha_multipole {
    ha_orders orders;
    ha_cell_sets sets;
    ha_detectors detectors;
    ha_privates privates;
    struct ha_multipole_thread *threads;
} ha_multipole;

void ha_multipole_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads, ha_multipole *m);

/* Rows that have a past: out and lse are final then. states: [in flight], what the rows have seen
 * up to now; not read without a causal mask. */
void ha_multipole_forward(ha_call *call, const ha_multipole *m, const ha_states *states);

#endif
