/* SPDX-License-Identifier: Apache-2.0
 *
 * Gradients of a wave's tasks. A task owns its rows of dQ, but its columns may be anyone's: it
 * keeps what they get in slots, a row per column. When a round of tasks is done, threads that own
 * the keys add up its slots in the order of the tasks, while others are at the next round. Slots
 * are few enough to stay in a cache until then.
 */
#ifndef HA_BACKWARD_HYPER_H
#define HA_BACKWARD_HYPER_H

#include "cpu/hyper.h"
#include "cpu/sums.h"

/* Gradients of the columns of a few rounds of tasks, until they are summed per key. */
typedef struct ha_slots {
    int64_t columns;     /* of a task, at most */
    int64_t round;       /* tasks of a round */
    int64_t parts;       /* of a key head's keys */
    uint32_t *key;       /* [tasks kept][columns] */
    int64_t *used;       /* [tasks kept]: columns */
    ha_column_sums sums; /* [tasks kept][columns] rows */
    atomic_int_least64_t *done, *summed; /* tasks of each round; rounds of each part of the keys */
} ha_slots;

typedef struct ha_backward_hyper {
    ha_slots slots;
    struct ha_grad_thread *threads;
} ha_backward_hyper;

void ha_backward_hyper_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads,
                             ha_backward_hyper *b);

/* Adds what the wave's tasks give to the sums of the key heads in flight. */
void ha_backward_hyper_run(ha_call *call, const ha_backward_hyper *b, const ha_wave *wave,
                           const ha_sums *sums);

#endif
