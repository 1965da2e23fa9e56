/* SPDX-License-Identifier: Apache-2.0
 *
 * Exact attention in the flash manner: tiles of queries against panels of packed keys and values,
 * one online softmax, no n x n matrix. Serves exact attention and the causal leaves of Algorithm 4,
 * but where few rows meet many keys: see cpu/few.h.
 */
#ifndef HA_EXACT_H
#define HA_EXACT_H

#include "cpu/softmax.h"
#include "cpu/call.h"

/* Keys whose sums are formed apart, counted from a leaf's first key on, before they join those of
 * the keys before: rounding errors of a long sum then grow with the number of segments. A multiple
 * of HA_SPLIT. */
#define HA_SEGMENT_KEYS 16384

typedef struct ha_exact {
    struct ha_exact_head *heads; /* of the key heads in flight: their packs */
    struct ha_exact_thread *threads;
} ha_exact;

/* with_values 0: for ha_exact_sums. */
void ha_exact_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads, int with_values,
                    ha_exact *exact);

/* Every leaf of the key heads in flight: out and lse of its rows are final then, or, of a partial
 * leaf, kept in states. states: [in flight], what the waves before have left of the rows; not read
 * where there was none. */
void ha_exact_forward(ha_call *call, const ha_exact *exact, const ha_states *states);

/* The same of partial leaves alone, and of their rows' states m and l alone, which get the same
 * bits: no values are read. */
void ha_exact_sums(ha_call *call, const ha_exact *exact, const ha_states *states);

#endif
