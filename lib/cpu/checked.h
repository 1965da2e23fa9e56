/* SPDX-License-Identifier: Apache-2.0
 *
 * The exact rows of hyperattn_measure: checked rows of all query heads of a group against packed
 * keys, as in cpu/exact.h, but that the rows lie anywhere and few of them meet all keys.
 */
#ifndef HA_CHECKED_H
#define HA_CHECKED_H

#include "cpu/measure.h"

/* Draws the rows of every check in flight, computes them exactly, and leaves diff, norm, lse_log2
 * and panel, or the rows themselves in exact. */
void ha_check_rows(ha_measure *m);

#endif
