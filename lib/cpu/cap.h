/* SPDX-License-Identifier: Apache-2.0
 *
 * Algorithm 2 (ApproxD) beyond plain sampling: tau, the row-wise cap of sampled entries (line 5)
 * and the floor of the sampled row sum (line 7). In use where kappa_cap > 0.
 */
#ifndef HA_CAP_H
#define HA_CAP_H

#include "cpu/unit.h"

/* Line 2 for every rectangle of the wave: the largest row sum outside the exact columns over a
 * random set of min(sample_size, nq) rows, taken as tiles of neighbours in sorted order, which
 * share their exact block. */
void ha_cap_tau(ha_run *run);

/* Line 5, when the task's exact columns are done: no sampled entry, with its weight, may exceed
 * (exact sum + tau / kappa) / ln n. The paper's Theta(eps^2) is taken as 1. */
void ha_cap_prepare(const ha_run *run, ha_scratch *s, const ha_task *task);

/* Line 7, when its samples are done: they sum to tau / kappa at least. */
void ha_cap_finish(const ha_run *run, ha_scratch *s, const ha_task *task);

/* For backward: the task's row sums without values, from the scratch's query rows on, and its cap;
 * then entries of rows at their floor become 0. */
void ha_cap_sums(ha_run *run, ha_scratch *s, const ha_task *task);
void ha_cap_drop_floored(const ha_run *run, const ha_scratch *s, const ha_task *task, float *entry);

/* Tiles of rows per rectangle. */
int64_t ha_cap_tiles(const hyperattn_params *params, const ha_arith *arith);

#endif
