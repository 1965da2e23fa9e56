/* SPDX-License-Identifier: Apache-2.0 */
#include "algo/ladder.h"

#include <math.h>

#include "algo/measure.h"
#include "algo/multipole.h"

/* ---- what a step costs ----------------------------------------------------------------------- */

const ha_cost ha_costs[2][HA_COST_KINDS] = {
    {{0.06, 0.90}, {0.09, 0.85}, {0.13, 0.89}, {0.20, 0.91},
     {0.32, 0.65}, {0.46, 0.64}, {0.66, 0.57}, {0.89, 0.55},
     {0.08, 1.01}}, /* not causal */
    {{0.20, 0.80}, {0.29, 0.73}, {0.40, 0.73}, {0.64, 0.54},
     {0.55, 0.63}, {0.75, 0.53}, {0.82, 0.49}, {0.95, 0.45},
     {0.42, 0.76}}, /* causal */
};

static const int budget_of[HA_COST_KINDS] = {
    324, 710, 1288, 2576, 324, 710, 1288, 2576, 0,
};

/* HYPER's window where AUTO takes it: without, the nearest keys are lost between blocks. */
#define HYPER_WINDOW 256

static void set_kind(hyperattn_params *params, ha_cost_kind kind, int causal)
{
    params->method = kind == HA_COST_HYPER ? HYPERATTN_HYPER : HYPERATTN_MULTIPOLE;
    if (kind != HA_COST_HYPER)
        params->budget = budget_of[kind];
    else if (causal && params->window < HYPER_WINDOW)
        params->window = HYPER_WINDOW;
    if (kind < HA_COST_MULTIPOLE_324)
        params->private_depth = -1;
}

void ha_cost_params(hyperattn_params *params, ha_cost_kind kind, int causal)
{
    hyperattn_params_init(params);
    set_kind(params, kind, causal);
}

static double cost_at(ha_cost_kind kind, int causal, double nk)
{
    const ha_cost *c = &ha_costs[causal][kind];
    return c->at * pow(8192 / nk, c->power);
}

/* Columns that a run of HYPER attends to, over those of what was measured. */
static double hyper_share(const hyperattn_params *p, int causal)
{
    hyperattn_params m;
    ha_cost_params(&m, HA_COST_HYPER, causal);
    return ((double)p->block_size + p->sample_size + p->num_sinks + p->window) /
           ((double)m.block_size + m.sample_size + m.num_sinks + m.window);
}

/* Between the budgets that are measured, and in proportion beyond. */
static double multipole_cost(const hyperattn_params *p, int causal, double nk)
{
    ha_cost_kind low = p->private_depth < 0 ? HA_COST_CELLS_324 : HA_COST_MULTIPOLE_324;
    ha_cost_kind high = p->private_depth < 0 ? HA_COST_CELLS_2576 : HA_COST_MULTIPOLE_2576;
    if (p->budget <= budget_of[low])
        return cost_at(low, causal, nk);
    if (p->budget >= budget_of[high])
        return cost_at(high, causal, nk) * p->budget / budget_of[high];
    while (p->budget > budget_of[low + 1])
        low++;
    double part = (double)(p->budget - budget_of[low]) / (budget_of[low + 1] - budget_of[low]);
    double a = cost_at(low, causal, nk), b = cost_at(low + 1, causal, nk);
    return a + (b - a) * part;
}

/* Of fewer rows than keys: what is prepared for the keys is done all the same. */
static double cost_of(const hyperattn_params *p, int causal, int64_t nq, int64_t nk)
{
    double keys = (double)nk, rows = nq < nk ? (double)nq : keys;
    if (p->method == HYPERATTN_EXACT || nq == 0 || nk == 0)
        return 1;
    double cost = p->method == HYPERATTN_HYPER
                      ? cost_at(HA_COST_HYPER, causal, keys) * hyper_share(p, causal)
                      : multipole_cost(p, causal, keys);
    return cost * keys / rows;
}

/* Of the exact rows, which are slower than others since they lie apart. */
static double cost_of_trial(int64_t nq)
{
    return 2.0 * (double)ha_trial_rows(nq) / (double)nq;
}

/* ---- what can be hoped of it ----------------------------------------------------------------- */

/* Errors of real heads. Without private keys, and with HYPER, a few rows can have most of a head's
 * error: those that want a key of their own. */
typedef struct habit {
    double spread; /* of logarithms, from head to head: standard deviation */
    double margin; /* standard deviations of an estimate that are held to be error */
    double usable; /* what is left of the target below that margin, mostly */
} habit;

static habit habit_of(const hyperattn_params *p)
{
    if (p->method == HYPERATTN_MULTIPOLE && p->private_depth >= 0)
        return (habit){0.8, 2, 0.85};
    return (habit){1.1, 4, 0.78};
}

/* Medians, which grow as the square root of n. */
static double typical_error(const hyperattn_params *p, int causal, int64_t nk)
{
    double longer = sqrt((double)nk / 8192);
    if (p->method == HYPERATTN_HYPER)
        return 0.065 / sqrt(hyper_share(p, causal)) * longer;
    return (p->private_depth < 0 ? 0.025 : 0.008) * 710 / p->budget * longer;
}

/* Errors of the same kind go together from head to head, others less so. */
static int are_akin(const hyperattn_params *a, const hyperattn_params *b)
{
    return a->method == b->method && (a->private_depth < 0) == (b->private_depth < 0);
}

/* What is known of a head: its error at a step, or nothing, with step = -1. */
typedef struct evidence {
    int step;
    double error;
    double doubt; /* of the error's logarithm: standard deviation */
} evidence;

/* Of the logarithm of a head's error, where that of another step is known. */
#define SPREAD_AKIN 0.2
#define SPREAD_OTHER 0.55
#define SLOPE_OTHER 0.3

/* Probability that a step meets the target. */
static double chance(const ha_ladder *ladder, const evidence *known, int to, int64_t nk)
{
    const hyperattn_params *p = &ladder->step[to].params;
    const habit h = habit_of(p);
    double expected = log(typical_error(p, ladder->causal, nk)), spread = h.spread;
    if (known->step >= 0) {
        const hyperattn_params *q = &ladder->step[known->step].params;
        int akin = are_akin(p, q);
        double harder = log(known->error / typical_error(q, ladder->causal, nk));
        expected += akin ? harder : SLOPE_OTHER * harder;
        spread = hypot(akin ? SPREAD_AKIN : SPREAD_OTHER, known->doubt);
    }
    return 0.5 * erfc((expected - log(h.usable * ladder->target)) / (spread * sqrt(2)));
}

/* A step above `above`, and what it costs to go there and on from it: from the last step downwards,
 * a step is worth a try if it costs less than its chance of saving what would follow. */
static int best_step(const ha_ladder *ladder, int above, const evidence *known, int64_t nq,
                     int64_t nk, double *cost)
{
    int next = ladder->nsteps - 1;
    *cost = 1;
    for (int i = next - 1; i > above && !isnan(known->error) && nq && nk; i--) {
        double own = cost_of(&ladder->step[i].params, ladder->causal, nq, nk);
        double p = chance(ladder, known, i, nk);
        if (own >= p * *cost)
            continue;
        *cost = own + (1 - p) * *cost;
        next = i;
    }
    return next;
}

int ha_ladder_next(const ha_ladder *ladder, int from, double error, int64_t nq, int64_t nk)
{
    const evidence known = {from, error, 0};
    double cost;
    int next = best_step(ladder, from, &known, nq, nk, &cost);
    return from < 0 && cost + cost_of_trial(nq) >= 1 ? ladder->nsteps - 1 : next;
}

/* ---- the last rows --------------------------------------------------------------------------- */

/* A head's error over that of its last rows: under a causal mask rows with a short past have less.
 * Of 368 heads of two models the middle four fifths have .4 to 1.6 times, the median is .69 to .76
 * from text to text; the rows that are not checked add to the doubt. */
#define PROBE_CAUSAL_SHARE 0.7
#define PROBE_DOUBT 0.3

/* Shorter heads are as soon tried whole. */
#define PROBE_LEAST (16 * HA_PROBE_ROWS)

int ha_ladder_probes(const ha_ladder *ladder, int64_t nq, int64_t nk)
{
    return ladder->probe >= 0 && nq >= PROBE_LEAST &&
           ha_ladder_next(ladder, -1, 0, nq, nk) < ladder->nsteps - 1;
}

int ha_ladder_begin(const ha_ladder *ladder, double error, int64_t nq, int64_t nk)
{
    double share = ladder->causal ? PROBE_CAUSAL_SHARE : 1;
    const evidence known = {ladder->probe, share * error, PROBE_DOUBT};
    double cost;
    int first = best_step(ladder, -1, &known, nq, nk, &cost);
    return cost + cost_of_trial(nq) >= 1 ? ladder->nsteps - 1 : first;
}

/* ---- the list -------------------------------------------------------------------------------- */

/* Above this a step is not on the ladder. */
#define MOST_COST 0.9

static void add_step(ha_ladder *ladder, const hyperattn_params *params,
                     const hyperattn_problem *problem)
{
    const ha_step step = {*params,
                          cost_of(params, ladder->causal, problem->seqlen_q, problem->seqlen_k)};
    int at = ladder->nsteps;
    if (step.cost >= MOST_COST && params->method != HYPERATTN_EXACT)
        return;
    for (; at > 0 && ladder->step[at - 1].cost > step.cost; at--)
        ladder->step[at] = ladder->step[at - 1];
    ladder->step[at] = step;
    ladder->nsteps++;
}

static int doubled(int value)
{
    return value > INT32_MAX / 2 ? INT32_MAX : 2 * value;
}

/* The same method with twice the budget; 0 if there is no more. A block is one only where sortLSH
 * makes it. */
static int raise(hyperattn_params *params)
{
    if (params->method == HYPERATTN_MULTIPOLE) {
        params->budget = doubled(params->budget);
        return params->budget <= HA_MOST_BUDGET;
    }
    int blocks = !params->block_mask && params->heavy == HYPERATTN_HEAVY_SORTLSH;
    if (blocks)
        params->block_size = doubled(params->block_size);
    params->sample_size = doubled(params->sample_size);
    return blocks || params->sample_size;
}

/* AUTO's. Not MULTIPOLE without private keys: where it errs, a few rows have most of the error, of
 * which no sample of rows tells. */
static void add_kinds(ha_ladder *ladder, const hyperattn_params *base,
                      const hyperattn_problem *problem)
{
    for (int kind = HA_COST_MULTIPOLE_324; kind < HA_COST_KINDS; kind++) {
        hyperattn_params one = *base;
        set_kind(&one, (ha_cost_kind)kind, problem->causal);
        add_step(ladder, &one, problem);
    }
}

/* One method's, each with twice the budget of the one before. */
static void add_budgets(ha_ladder *ladder, const hyperattn_params *base,
                        const hyperattn_problem *problem)
{
    hyperattn_params one = *base;
    if (one.method == HYPERATTN_MULTIPOLE && !one.budget)
        one.budget = budget_of[HA_COST_MULTIPOLE_710];
    int more = 1;
    for (int i = 0; i < HA_MAX_STEPS - 1 && more; i++) {
        add_step(ladder, &one, problem);
        more = raise(&one);
    }
}

/* MULTIPOLE's cheapest. HYPER's blocks are not those of a part of the rows. */
static int probe_step(const ha_ladder *ladder)
{
    for (int i = 0; i < ladder->nsteps; i++)
        if (ladder->step[i].params.method == HYPERATTN_MULTIPOLE)
            return i;
    return -1;
}

void ha_ladder_build(ha_ladder *ladder, const hyperattn_params *params,
                     const hyperattn_problem *problem)
{
    hyperattn_params base = *params, exact;
    int chosen = params->target_error > 0;
    base.target_error = 0;
    hyperattn_params_init(&exact);
    exact.method = HYPERATTN_EXACT;
    exact.seed = params->seed;
    *ladder = (ha_ladder){
        .probe = -1, .causal = problem->causal, .target = params->target_error};
    if (params->method == HYPERATTN_AUTO && chosen && !params->strict_causal)
        add_kinds(ladder, &base, problem);
    if (params->method == HYPERATTN_HYPER || params->method == HYPERATTN_MULTIPOLE) {
        if (!chosen) {
            *ladder = (ha_ladder){.nsteps = 1, .probe = -1, .step[0].params = base};
            return;
        }
        add_budgets(ladder, &base, problem);
    }
    add_step(ladder, &exact, problem);
    ladder->probe = probe_step(ladder);
}

/* ---- trials ---------------------------------------------------------------------------------- */

/* Sums over all rows, from one of each strip. */
typedef struct sums {
    double diff, norm;
} sums;

static sums sums_of(const ha_trial *t)
{
    sums s = {0, 0};
    for (int64_t i = 0; i < t->rows; i++) {
        double rows = (double)ha_strip_rows(t->nq, t->rows, i);
        s.diff += rows * t->diff[i];
        s.norm += rows * t->norm[i];
    }
    return s;
}

double ha_trial_error(const ha_trial *t)
{
    const sums s = sums_of(t);
    if (isnan(s.diff) || isinf(s.diff) || isnan(s.norm) || isinf(s.norm))
        return NAN;
    return s.diff == 0 ? 0 : sqrt(s.diff / s.norm);
}

int ha_trial_meets(const ha_trial *t, const ha_ladder *ladder, int step)
{
    const sums s = sums_of(t);
    double margin = habit_of(&ladder->step[step].params).margin, spread = 0;
    for (int64_t i = 0; i < t->rows; i++) {
        double rows = (double)ha_strip_rows(t->nq, t->rows, i);
        double apart = rows * (t->diff[i] - s.diff / s.norm * t->norm[i]);
        spread += apart * apart;
    }
    double allowed = (double)ladder->target * ladder->target * s.norm;
    return s.diff == 0 || s.diff + margin * sqrt(spread) <= allowed;
}
