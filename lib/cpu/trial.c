/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/trial.h"

#include "int64.h"

void ha_trials_open(ha_trials *trials, const ha_plan *whole, int64_t most)
{
    *trials = (ha_trials){0};
    ha_measure_open(&trials->m, whole, most);
}

void ha_trials_carve(ha_carver *c, ha_trials *trials)
{
    ha_measure *m = &trials->m;
    const hyperattn_problem *p = m->plan.problem;
    int64_t rows;
    if (__builtin_mul_overflow(p->batch * p->nheads, m->most, &rows))
        c->wraps = 1, rows = 0;
    trials->row = ha_carve(c, rows, sizeof *trials->row);
    trials->exact = ha_carve(c, rows, (size_t)p->head_dim_v * sizeof *trials->exact);
    trials->diff = ha_carve(c, rows, sizeof *trials->diff);
    trials->norm = ha_carve(c, rows, sizeof *trials->norm);
    ha_measure_carve(c, m);
    for (int64_t i = 0; i < m->in_flight; i++) {
        ha_check none, *check = c->base ? &m->checks[i] : &none;
        ha_check_carve_states(c, m, check);
    }
}

static int64_t rows_of(const ha_trials *trials, const ha_layout *layout)
{
    return ha_min(trials->m.most, ha_trial_rows(layout->nq));
}

static void aim(ha_key_head *kh, const ha_trials *trials, int64_t number)
{
    const ha_measured t = {trials->t->q, trials->t->k, trials->t->v, trials->t->out};
    ha_aim_measure(kh, &trials->m.plan, trials->m.whole, &t, number);
}

void ha_trials_begin(ha_trials *trials, ha_team *team, const int64_t *number, int64_t n)
{
    ha_measure *m = &trials->m;
    m->team = team;
    for (int64_t next = 0; next < n;) {
        for (m->nchecks = 0; m->nchecks < m->in_flight && next < n; next++) {
            ha_check *c = &m->checks[m->nchecks++];
            int64_t first = number[next] * m->plan.group * m->most;
            aim(&c->kh, trials, number[next]);
            c->rows = rows_of(trials, c->kh.layout);
            c->row = trials->row + first;
            c->exact = trials->exact + first * m->plan.problem->head_dim_v;
        }
        ha_check_rows(m);
    }
}

ha_trial ha_trials_compare(const ha_trials *trials, int64_t head, int thread)
{
    const ha_measure *m = &trials->m;
    int64_t dv = m->plan.problem->head_dim_v, group = m->plan.group, first = head * m->most;
    float *x = m->threads[thread].x;
    double *diff = trials->diff + first, *norm = trials->norm + first;
    ha_key_head kh;
    aim(&kh, trials, head / group);
    const ha_trial trial = {diff, norm, rows_of(trials, kh.layout), kh.layout->nq};
    for (int64_t r = 0; r < trial.rows; r++) {
        const float *exact = trials->exact + (first + r) * dv;
        ha_rows out = ha_head_rows(&kh.o, head % group);
        out.first = trials->row[first + r];
        m->plan.arith->load_q(x, &out, 1, dv);
        diff[r] = norm[r] = 0;
        for (int64_t e = 0; e < dv; e++) {
            double apart = (double)x[e] - exact[e];
            diff[r] += apart * apart;
            norm[r] += (double)exact[e] * exact[e];
        }
    }
    return trial;
}
