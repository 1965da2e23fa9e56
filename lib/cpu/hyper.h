/* SPDX-License-Identifier: Apache-2.0
 *
 * HyperAttention on unmasked rectangles (Algorithms 1 to 3): hash, sort, then blocks and sampled
 * columns in one online softmax.
 */
#ifndef HA_HYPER_H
#define HA_HYPER_H

#include "cpu/unit.h"

/* Projections of every key and query, once per call. */
void ha_hyper_hash(ha_run *run);

/* Sorts the keys and queries of the wave's rectangles and cuts them into run->tasks. */
void ha_hyper_sort(ha_run *run);

/* Runs the wave's tasks. final: no other wave or leaf follows, so out and lse are written. */
void ha_hyper_attend(ha_run *run, int final);

#endif
