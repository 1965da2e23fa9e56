/* SPDX-License-Identifier: Apache-2.0
 *
 * The way up target_error's ladder (algo/ladder.h). The last rows of long heads are tried first,
 * and say where these begin. Then some rows of every query head are computed exactly, and each step
 * computes the heads that have come to it. A head stays where its rows are near enough to the exact
 * ones.
 */
#ifndef HA_CLIMB_H
#define HA_CLIMB_H

#include "algo/ladder.h"
#include "cpu/trial.h"

/* A query head on its way up. */
typedef struct ha_climber {
    int step, tried;
    int settled;
    double error;
} ha_climber;

typedef struct ha_climb {
    const ha_plan *whole;
    const ha_cpu_plan *plan;
    const ha_tensors *t;
    int64_t nheads; /* of all sequences */
    int step;       /* that is gone through */
    /* in the workspace */
    ha_climber *climbers; /* [nheads] */
    int64_t *list;        /* [nheads]: those that are on the step */
    int64_t n;
    int64_t *some;        /* [nheads]: key heads all of whose query heads are, then other heads */
    ha_trials trials;
    ha_trials probe;      /* of the last rows, if the plan has a probe */
    void *below;          /* for the steps' calls */
} ha_climb;

ha_climb ha_climb_begin(const ha_plan *whole);

/* backward: with room for the steps' gradients. */
void ha_climb_carve(ha_carver *c, ha_climb *w, int backward);

/* Takes all heads of w->t up, until each has an output that stays. */
void ha_climb_run(ha_climb *w);

/* The sequence of a query head. */
const ha_layout *ha_climb_layout(const ha_climb *w, int64_t head);

#endif
