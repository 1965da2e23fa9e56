/* SPDX-License-Identifier: Apache-2.0
 *
 * The running softmax state of a task's rows: m (log2 of the largest weight), l and acc.
 */
#ifndef HA_STATE_H
#define HA_STATE_H

#include "cpu/unit.h"

/* The rows of a task: one query head's, by index or consecutive from first. */
typedef struct ha_state_rows {
    ha_unit *unit;
    int64_t head;
    const uint32_t *index;
    int64_t first, rows;
} ha_state_rows;

ha_state_rows ha_task_rows(const ha_run *run, const ha_task *task);

/* Where row i's accumulators are kept between waves. */
const float *ha_state_row(const ha_run *run, const ha_state_rows *at, int64_t i);

/* No key seen yet, for all padded rows. */
void ha_state_clear(const ha_run *run, ha_scratch *s, int64_t rows);

/* From and to the unit's arrays. */
void ha_state_load(const ha_run *run, ha_scratch *s, const ha_state_rows *at);
void ha_state_store(const ha_run *run, const ha_scratch *s, const ha_state_rows *at);

/* Folds the stored state into the scratch's. */
void ha_state_merge(const ha_run *run, ha_scratch *s, const ha_state_rows *at);

/* Writes out and lse. */
void ha_state_finish(const ha_run *run, ha_scratch *s, const ha_state_rows *at);

#endif
