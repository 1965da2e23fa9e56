/* SPDX-License-Identifier: Apache-2.0
 *
 * target_error's decisions. A ladder is a list of params by cost, EXACT the last. Each query head
 * begins at the first step of which something can be hoped, is computed, and compared with some
 * exact rows; where the error is too large it goes up, past the steps that will not do either. The
 * last rows of a long head are tried alone before: they tell where it begins.
 */
#ifndef HA_ALGO_LADDER_H
#define HA_ALGO_LADDER_H

#include "hyperattn.h"

#define HA_MAX_STEPS 10

/* Rows of a head that are computed exactly, of nq: one of 64, and not less than 128. */
#define HA_TRIAL_ROWS 128

static inline int64_t ha_trial_rows(int64_t nq)
{
    int64_t rows = nq / 64 > HA_TRIAL_ROWS ? nq / 64 : HA_TRIAL_ROWS;
    return rows < nq ? rows : nq;
}

typedef struct ha_step {
    hyperattn_params params; /* target_error 0 */
    double cost;             /* time over that of EXACT, for the longest sequence */
} ha_step;

/* Rows of a head that are tried before the others, and how many of them are computed exactly. */
#define HA_PROBE_ROWS 256
#define HA_PROBE_TRIAL_ROWS 48

typedef struct ha_ladder {
    int nsteps;
    int probe; /* the step whose params the last rows are tried with; -1: none */
    int causal;
    float target;
    ha_step step[HA_MAX_STEPS];
} ha_ladder;

/* The ladder of checked params and a resolved problem. Without target_error it has one step. */
void ha_ladder_build(ha_ladder *ladder, const hyperattn_params *params,
                     const hyperattn_problem *problem);

/* The step that a head of nq rows and nk keys goes to: from = -1 where it begins, or after a step
 * whose error was too large. EXACT where that error is NaN. */
int ha_ladder_next(const ha_ladder *ladder, int from, double error, int64_t nq, int64_t nk);

/* Whether a head's last rows are tried before it begins. */
int ha_ladder_probes(const ha_ladder *ladder, int64_t nq, int64_t nk);

/* Where a head begins whose last HA_PROBE_ROWS rows have this error at the step ladder->probe. */
int ha_ladder_begin(const ha_ladder *ladder, double error, int64_t nq, int64_t nk);

/* A head's rows that were compared, one of each strip. */
typedef struct ha_trial {
    const double *diff, *norm; /* [rows]: |out_i - exact_i|^2, |exact_i|^2 */
    int64_t rows, nq;
} ha_trial;

/* The relative error of all rows, estimated; NaN if one of the rows is not finite. */
double ha_trial_error(const ha_trial *t);

/* Whether a head may be taken to meet the target at this step, with what its rows do not tell. */
int ha_trial_meets(const ha_trial *t, const ha_ladder *ladder, int step);

/* ---- what a step costs ----------------------------------------------------------------------- */

/* Time over that of EXACT, all rows and keys of one sequence: at * (8192 / nk)^power. */
typedef struct ha_cost {
    double at, power;
} ha_cost;

/* What is measured (hyperattn tune), and what AUTO's ladder is made of; other costs are between
 * these. CELLS: without private keys. */
typedef enum ha_cost_kind {
    HA_COST_CELLS_324,
    HA_COST_CELLS_710,
    HA_COST_CELLS_1288,
    HA_COST_CELLS_2576,
    HA_COST_MULTIPOLE_324,
    HA_COST_MULTIPOLE_710,
    HA_COST_MULTIPOLE_1288,
    HA_COST_MULTIPOLE_2576,
    HA_COST_HYPER, /* the defaults; causal: with window 256 */
    HA_COST_KINDS
} ha_cost_kind;

/* Sets what is measured for a kind, over the defaults of everything else. */
void ha_cost_params(hyperattn_params *params, ha_cost_kind kind, int causal);

/* The default table, measured as bench/RESULTS.md says. */
extern const ha_cost ha_costs[2][HA_COST_KINDS]; /* by causal */

#endif
