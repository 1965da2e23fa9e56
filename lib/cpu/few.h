/* SPDX-License-Identifier: Apache-2.0
 *
 * Exact attention of few query rows against many keys: decoding, short chunks, and short sequences.
 * All rows of all heads of the group fit one task, so a thread takes a range of keys, packs what it
 * needs in its own memory, and all rows share each read; the ranges' states are added up in order.
 */
#ifndef HA_FEW_H
#define HA_FEW_H

#include "cpu/call.h"
#include "cpu/softmax.h"

typedef struct ha_few {
    ha_states *heads; /* of the key heads in flight: [ranges][group * nq] */
    struct ha_few_thread *threads;
} ha_few;

/* Whether a sequence's rows are few. */
int ha_few_serves(const ha_cpu_plan *plan, const ha_layout *layout);

void ha_few_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads, ha_few *few);

/* out and lse of the key heads in flight whose rows are few. */
void ha_few_forward(ha_call *call, const ha_few *few);

#endif
