/* SPDX-License-Identifier: Apache-2.0
 *
 * Arbitrary weighted columns of a unit against a task's queries.
 */
#ifndef HA_COLUMNS_H
#define HA_COLUMNS_H

#include "cpu/unit.h"

/* Gathers the columns into the scratch's packs. dv 0: keys only. */
void ha_columns_pack(const ha_run *run, ha_scratch *s, const ha_unit *u, const ha_columns *c,
                     int64_t dv);

/* One online softmax step of the scratch's query rows over the packed columns. Meanwhile the rows
 * that the scratch names ahead come into the caches; their list is empty afterwards. */
void ha_columns_attend(const ha_run *run, ha_scratch *s, const ha_columns *c, int64_t rows,
                       int capped, int64_t dv);

#endif
