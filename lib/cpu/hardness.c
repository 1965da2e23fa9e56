/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/hardness.h"

#include <math.h>

#include "int64.h"

/* Some keys, as f32 rows in a thread's x. */
typedef struct chunk {
    int64_t first, keys;
} chunk;

/* A panel of checked rows of one query head. */
typedef struct panel {
    int64_t head, first, rows; /* first: of its head's checked rows */
    const uint32_t *row;
    const float *lse_log2;
} panel;

static panel panel_of(const ha_measure *m, const ha_check *c, int64_t head, int64_t number)
{
    int64_t first = number * HA_CHECK_PANEL;
    return (panel){head, first, ha_min(HA_CHECK_PANEL, c->rows - first),
                   c->row + head * m->most + first,
                   c->lse_log2 + head * m->panels * HA_CHECK_PANEL + first};
}

/* Whether any row of the panel sees a key behind `first`. */
static int sees(const ha_measure *m, const ha_check *c, const panel *p, int64_t first)
{
    const ha_layout *l = c->kh.layout;
    return !m->plan.problem->causal || p->row[p->rows - 1] + 1 + l->nk - l->nq > first;
}

/* Shares [keys][HA_CHECK_PANEL] of the rows' sums, 0 where a key is not seen. */
static void form_shares(const ha_measure *m, const ha_check *c, const ha_check_thread *t,
                        const panel *p, const chunk *at)
{
    const hyperattn_problem *problem = m->plan.problem;
    const ha_arith *a = m->plan.arith;
    const ha_layout *l = c->kh.layout;
    size_t size = ha_k_bytes(a, HA_CHECK_PANEL, problem->head_dim) / sizeof(float);
    const float *q = c->panel +
                     (size_t)(p->head * m->panels + p->first / HA_CHECK_PANEL) * size;
    float scale = problem->softmax_scale * HA_LOG2E;
    m->plan.kernels->project(t->scores, HA_CHECK_PANEL, t->x, ha_ldq(a, problem->head_dim), q,
                             at->keys, problem->head_dim, HA_CHECK_PANEL);
    for (int64_t j = 0; j < at->keys; j++)
        for (int r = 0; r < HA_CHECK_PANEL; r++) {
            float *s = t->scores + j * HA_CHECK_PANEL + r;
            *s = p->lse_log2[r] == INFINITY ? -INFINITY : *s * scale - p->lse_log2[r];
        }
    for (int64_t r = 0; problem->causal && r < p->rows; r++) {
        int64_t limit = (int64_t)p->row[r] + 1 + l->nk - l->nq - at->first;
        for (int64_t j = ha_max(0, limit); j < at->keys; j++)
            t->scores[j * HA_CHECK_PANEL + r] = -INFINITY;
    }
    m->plan.kernels->exp2(t->scores, at->keys * HA_CHECK_PANEL);
}

/* Adds a panel's shares to the columns, and those below `large` to the rows' light sums. */
static void add_shares(const ha_check *c, const ha_check_thread *t, const panel *p, int64_t keys,
                       float large, double *light)
{
    float weight[HA_CHECK_PANEL] = {0}, sum[HA_CHECK_PANEL] = {0};
    for (int64_t r = 0; r < p->rows; r++)
        weight[r] = (float)ha_strip_rows(c->kh.layout->nq, c->rows, p->first + r);
    for (int64_t j = 0; j < keys; j++) {
        const float *share = t->scores + j * HA_CHECK_PANEL;
        float column = 0;
        for (int r = 0; r < HA_CHECK_PANEL; r++) {
            column += weight[r] * share[r] * share[r];
            sum[r] += share[r] >= large ? 0 : share[r];
        }
        t->column[j] += column;
    }
    for (int64_t r = 0; r < p->rows; r++)
        light[r] += sum[r];
}

/* One part of the keys against all checked rows of a check. */
static void run_part(void *arg, int64_t i, int thread)
{
    const ha_measure *m = arg;
    const ha_check_thread *t = &m->threads[thread];
    const ha_check *c = &m->checks[i / HA_CHECK_PARTS];
    int64_t part = i % HA_CHECK_PARTS, nk = c->kh.layout->nk, group = m->plan.group;
    int64_t padded = m->panels * HA_CHECK_PANEL;
    double *light = c->light + part * group * padded, *most = c->column + part * group;
    const float large = 1 / (float)m->plan.params->block_size;
    for (int64_t x = 0; x < group * padded; x++)
        light[x] = 0;
    for (int64_t head = 0; head < group; head++)
        most[head] = 0;
    chunk at = {ha_part_begin(nk, part, HA_CHECK_PARTS), 0};
    int64_t end = ha_part_begin(nk, part + 1, HA_CHECK_PARTS);
    for (; at.first < end; at.first += at.keys) {
        ha_rows k = c->kh.k;
        k.first = at.first;
        at.keys = ha_min(HA_CHECK_KEYS, end - at.first);
        m->plan.arith->load_q(t->x, &k, at.keys, m->plan.problem->head_dim);
        for (int64_t head = 0; head < group; head++) {
            for (int64_t j = 0; j < at.keys; j++)
                t->column[j] = 0;
            for (int64_t number = 0; number * HA_CHECK_PANEL < c->rows; number++) {
                const panel p = panel_of(m, c, head, number);
                if (!sees(m, c, &p, at.first))
                    continue;
                form_shares(m, c, t, &p, &at);
                add_shares(c, t, &p, at.keys, large, light + head * padded + p.first);
            }
            for (int64_t j = 0; j < at.keys; j++)
                most[head] = ha_larger(t->column[j], most[head]);
        }
    }
}

void ha_check_hardness(ha_measure *m)
{
    ha_parallel_for(m->team, m->nchecks * HA_CHECK_PARTS, run_part, m);
}

double ha_check_alpha(const ha_measure *m, const ha_check *c, int64_t head)
{
    double most = 0;
    for (int64_t part = 0; part < HA_CHECK_PARTS; part++)
        most = ha_larger(c->column[part * m->plan.group + head], most);
    return (double)c->kh.layout->nk * most;
}

double ha_check_kappa(const ha_measure *m, const ha_check *c, int64_t head)
{
    int64_t padded = m->panels * HA_CHECK_PANEL;
    double least = INFINITY, most = -INFINITY;
    for (int64_t r = 0; r < c->rows; r++) {
        double light = 0;
        for (int64_t part = 0; part < HA_CHECK_PARTS; part++)
            light += c->light[(part * m->plan.group + head) * padded + r];
        if (isnan(light))
            return NAN;
        if (light > 0) {
            double sum = c->lse_log2[head * padded + r] + log2(light);
            least = sum < least ? sum : least;
            most = sum > most ? sum : most;
        }
    }
    return most < least ? 1 : exp2(most - least);
}
