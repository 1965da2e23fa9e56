/* SPDX-License-Identifier: Apache-2.0
 *
 * Arbitrary columns of a unit, named by the scratch's index and weighted by its logw, against the
 * task's queries.
 */
#ifndef HA_COLUMNS_H
#define HA_COLUMNS_H

#include "cpu/unit.h"

/* Gathers n columns, at most HA_TASK_KEYS, into the scratch's packs. dv 0: keys only. */
void ha_columns_pack(const ha_run *run, ha_scratch *s, const ha_unit *u, int64_t n, int64_t dv);

/* One online softmax step of the scratch's query rows over the n packed columns. */
void ha_columns_attend(const ha_run *run, ha_scratch *s, int64_t rows, int64_t n, int capped,
                       int64_t dv);

#endif
