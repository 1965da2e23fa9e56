/* SPDX-License-Identifier: Apache-2.0
 *
 * Stage times, taken only while a profile is set.
 */
#ifndef HA_CLOCK_H
#define HA_CLOCK_H

#include <time.h>

#include "cpu/unit.h"

static inline double ha_clock(const ha_plan *plan)
{
    if (!plan->profile)
        return 0;
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Books the time since start on a stage of this thread and returns the time now. */
static inline double ha_clock_add(ha_run *run, int thread, ha_stage stage, double start)
{
    double now = ha_clock(run->plan);
    run->scratch[thread].seconds[stage] += now - start;
    return now;
}

#endif
