/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/approxd.h"

#include <math.h>

#include "cpu/clock.h"
#include "int64.h"

/* One thread's buffers. */
typedef struct ha_tau_thread {
    ha_softmax rows;
    ha_picks picks;
    ha_key_pack pack;
} ha_tau_thread;

typedef struct stage {
    ha_call *call;
    const ha_taus *taus;
    const ha_sortlsh *sort;
    const ha_vnorm *v;
    int wave;
} stage;

/* Room for the tiles of any rectangle. */
static int64_t room(const ha_cpu_plan *plan)
{
    return ha_tau_tiles(plan->params, plan->max.nq);
}

void ha_taus_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads, ha_taus *taus)
{
    int64_t count = plan->group * plan->max.max_rects * room(plan);
    taus->heads = ha_carve(c, plan->in_flight, sizeof *taus->heads);
    taus->threads = ha_carve(c, nthreads, sizeof *taus->threads);
    for (int64_t i = 0; i < plan->in_flight; i++) {
        float *none, **tau = c->base ? &taus->heads[i] : &none;
        *tau = ha_carve(c, count, sizeof **tau);
    }
    for (int i = 0; count && i < nthreads; i++) {
        ha_tau_thread none, *t = c->base ? &taus->threads[i] : &none;
        ha_softmax_carve(c, plan, &t->rows, ha_rows_held(plan, HA_TAU_ROWS));
        ha_picks_carve(c, plan, &t->picks);
        ha_key_pack_carve(c, plan, &t->pack);
    }
}

static float *tau_of(const ha_call *call, const ha_taus *taus, int wave, int64_t place,
                     int64_t head, const ha_rect *rect)
{
    int64_t nrects, number = rect - ha_wave_rects(call->heads[place].layout, wave, &nrects);
    return taus->heads[place] + (head * call->plan->max.max_rects + number) * room(call->plan);
}

/* log2 of the largest sum over all keys of the rectangle outside the rows' exact columns. */
static float tile_tau(const stage *st, ha_tau_thread *t, int64_t place, int64_t head,
                      const ha_rect *rect, int64_t tile)
{
    const ha_cpu_plan *plan = st->call->plan;
    const ha_key_head *kh = &st->call->heads[place];
    const ha_sorted *sorted = &st->sort->heads[place];
    const uint32_t *order = ha_qorder_of(kh, sorted, head);
    const double *mass = st->v->heads[place].mass;
    ha_tau_rows rows = ha_draw_tau_rows(plan->params, kh->layout, rect, kh->query0 + head, tile,
                                        ha_bounds_of(plan, sorted, rect, head));
    const ha_query_rows at = {kh, head, order ? order + rows.row0 : NULL, rows.row0, rows.rows};
    ha_softmax_load_q(plan, &t->rows, &at);
    ha_softmax_clear(plan, &t->rows, rows.rows);
    ha_sampler all = ha_run_sampler(plan->problem, plan->params, kh->layout, rect,
                                    kh->query0 + head, &rows.run, mass ? mass + rect->k0 : NULL);
    all.draws = all.outside;
    ha_picker picker = ha_picker_begin_sampled(&all, rect, sorted->korder);
    while (ha_pick(&picker, &t->picks)) {
        const ha_columns c = ha_columns_picked(kh, &t->picks);
        ha_columns_pack(plan, &t->pack, &c, 0);
        ha_columns_attend(plan, &t->rows, rows.rows, &t->pack, &c, NULL, 0, NULL);
    }
    float tau = -INFINITY;
    for (int64_t i = 0; i < rows.rows; i++) /* a row that holds a NaN does not count */
        tau = fmaxf(tau, t->rows.m[i] + log2f(t->rows.l[i]));
    return tau;
}

static int64_t count_tiles(const void *arg, int64_t place)
{
    const stage *st = arg;
    int64_t nrects;
    ha_wave_rects(st->call->heads[place].layout, st->wave, &nrects);
    return nrects * st->call->plan->group * room(st->call->plan);
}

static void tau_tile(void *arg, int64_t place, int64_t item, int thread)
{
    const stage *st = arg;
    const ha_call *call = st->call;
    int64_t tile = item % room(call->plan), nrects;
    item /= room(call->plan);
    int64_t head = item % call->plan->group;
    const ha_rect *rect =
        ha_wave_rects(call->heads[place].layout, st->wave, &nrects) + item / call->plan->group;
    double start = ha_clock(call);
    if (tile >= ha_tau_tiles(call->plan->params, rect->nq))
        return;
    tau_of(call, st->taus, st->wave, place, head, rect)[tile] =
        tile_tau(st, &st->taus->threads[thread], place, head, rect, tile);
    ha_clock_add(call, thread, HA_STAGE_SAMPLE, start);
}

void ha_approxd_tau(ha_call *call, const ha_taus *taus, const ha_sortlsh *sort, const ha_vnorm *v,
                    int wave)
{
    stage st = {call, taus, sort, v, wave};
    if (call->plan->params->kappa_cap > 0)
        ha_for_items(call, count_tiles, tau_tile, &st);
}

double ha_approxd_floor(const ha_call *call, const ha_taus *taus, int wave, int64_t place,
                        int64_t head, const ha_rect *rect)
{
    return ha_log2_floor(call->plan->params, tau_of(call, taus, wave, place, head, rect),
                         ha_tau_tiles(call->plan->params, rect->nq));
}

/* ---- cap and floor --------------------------------------------------------------------------- */

void ha_cap_carve(ha_carver *c, const ha_cpu_plan *plan, ha_cap *cap)
{
    int64_t rows = ha_round_up(ha_rows_held(plan, HA_TASK_ROWS), plan->arith->mr);
    rows = plan->params->kappa_cap > 0 ? rows : 0;
    cap->cap = ha_carve(c, rows, sizeof *cap->cap);
    cap->log2_exact = ha_carve(c, rows, sizeof *cap->log2_exact);
}

void ha_cap_prepare(const ha_cpu_plan *plan, ha_cap *cap, const ha_softmax *s, int64_t rows)
{
    for (int64_t i = 0; i < rows; i++) {
        cap->log2_exact[i] = s->m[i] + log2f(s->l[i]);
        cap->cap[i] = ha_log2_cap((double)cap->log2_exact[i], cap->floor, cap->nk);
    }
    int64_t padded = ha_round_up(rows, plan->arith->mr);
    for (int64_t i = rows; i < padded; i++)
        cap->cap[i] = INFINITY;
}

/* Whether the samples of row i sum to less than 2^floor; *sum: what the whole row then sums to,
 * relative to its maximum. */
static int is_floored(const ha_cap *cap, const ha_softmax *s, int64_t i, double *sum)
{
    if (cap->floor == -INFINITY || s->m[i] == -INFINITY) /* neither blocks nor samples saw a key */
        return 0;
    double exact = exp2((double)cap->log2_exact[i] - (double)s->m[i]);
    double least = exp2(cap->floor - (double)s->m[i]);
    *sum = exact + least;
    return (double)s->l[i] - exact < least;
}

void ha_cap_finish(const ha_cap *cap, const ha_softmax *s, int64_t rows)
{
    double sum;
    for (int64_t i = 0; i < rows; i++)
        if (is_floored(cap, s, i, &sum))
            s->l[i] = (float)sum;
}

void ha_cap_drop_floored(const ha_cap *cap, const ha_softmax *s, int64_t rows, float *entry)
{
    double sum;
    for (int64_t i = 0; i < rows; i++)
        if (is_floored(cap, s, i, &sum))
            entry[i] = 0;
}
