/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows that a thread needs next and that lie anywhere in memory: named while other work is at hand,
 * whose kernels ask the caches for them in passing. It changes no result.
 */
#ifndef HA_AHEAD_H
#define HA_AHEAD_H

#include "cpu/columns.h"

void ha_ahead_carve(ha_carver *c, const ha_cpu_plan *plan, ha_ahead *ahead);

/* Query rows, rows of out, or kept rows. */
void ha_expect_queries(ha_ahead *ahead, const ha_query_rows *at);
void ha_expect_out(ha_ahead *ahead, const ha_query_rows *at);
void ha_expect_states(ha_ahead *ahead, const ha_cpu_plan *plan, const ha_states *states,
                      const ha_query_rows *at);

/* Keys and values of a batch. */
void ha_expect_columns(ha_ahead *ahead, const ha_key_head *kh, const ha_picks *picks);

#endif
