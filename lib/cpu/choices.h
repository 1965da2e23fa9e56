/* SPDX-License-Identifier: Apache-2.0
 *
 * What a bundle chooses of its past: candidate cells by their mass, as its mean query sees it, and
 * the keys that it selects. Those are the keys that several rows hit (cpu/hits.h) or, without a
 * detector, the candidates' heaviest ones; all of the past, where rows are crowded.
 */
#ifndef HA_CHOICES_H
#define HA_CHOICES_H

#include "cpu/bundle.h"

/* hits: as ha_bundle_columns has it. */
void ha_choose(const ha_cpu_plan *plan, ha_bundle_work *w, const ha_past *past, ha_hits *hits);

/* Leaves of hits, which other rows have than those that chose, what is not selected. */
void ha_leave_private(const ha_bundle_work *w, const ha_past *past, ha_hits *hits);

#endif
