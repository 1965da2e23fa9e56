/* SPDX-License-Identifier: Apache-2.0
 *
 * What bounds the error of rows that hyperattn_measure does not compute: an exact row is a weighted
 * mean of the rows of v, and every row of out can be looked at.
 */
#ifndef HA_REACH_H
#define HA_REACH_H

#include "cpu/measure.h"

/* For every check in flight: the centre, v and out. */
void ha_check_reach(ha_measure *m);

/* Of one query head. NaN where v or out is not finite. */
ha_reach ha_check_reach_of(const ha_measure *m, const ha_check *c, int64_t head);

#endif
