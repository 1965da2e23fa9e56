/* SPDX-License-Identifier: Apache-2.0
 *
 * Exact attention in the flash manner: tiles of queries against panels of packed keys and values,
 * one online softmax, no n x n matrix. Serves exact attention and the causal leaves of Algorithm 4.
 */
#ifndef HA_EXACT_H
#define HA_EXACT_H

#include "cpu/unit.h"

/* Packs the keys and values of every unit in flight from its layout's key0 on. */
void ha_exact_pack(ha_run *run);

/* Every leaf of every unit in flight: out and lse of its rows are final then. */
void ha_exact_leaves(ha_run *run);

#endif
