/* SPDX-License-Identifier: Apache-2.0
 *
 * Algorithm 3 on the CPU: the tasks of a wave of rectangles. A task is one run of sorted queries
 * (or a part of one) against its block, its pinned columns and its samples, in one online softmax.
 */
#ifndef HA_CPU_HYPER_H
#define HA_CPU_HYPER_H

#include "cpu/approxd.h"

/* What the stages before made of a wave; its tasks. */
typedef struct ha_wave {
    int number;
    const ha_sortlsh *sort;
    const ha_vnorm *vnorm;
    const ha_taus *taus;
    ha_task *tasks;
    int64_t ntasks;
} ha_wave;

void ha_wave_carve(ha_carver *c, const ha_cpu_plan *plan, ha_wave *wave);

/* Lists the tasks of the wave's rectangles. */
void ha_wave_list_tasks(const ha_call *call, ha_wave *wave);

/* The query rows of a task, what picks their columns, and what caps the sampled ones. */
ha_query_rows ha_task_rows(const ha_call *call, const ha_wave *wave, const ha_task *task);
ha_picker ha_task_picker(const ha_call *call, const ha_wave *wave, const ha_task *task);
void ha_task_cap(const ha_call *call, const ha_wave *wave, const ha_task *task, ha_cap *cap);

typedef struct ha_hyper {
    struct ha_hyper_thread *threads;
} ha_hyper;

void ha_hyper_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads, ha_hyper *hyper);

/* Runs the wave's tasks. states: [in flight], where rows are kept between waves. final: no other
 * wave or leaf follows, so out and lse are written. */
void ha_hyper_forward(ha_call *call, const ha_hyper *hyper, const ha_wave *wave,
                      const ha_states *states, int final);

#endif
