/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/eras.h"

#include "cpu/clock.h"
#include "int64.h"

/* ---- eras ------------------------------------------------------------------------------------ */

int64_t ha_walk_eras(const ha_call *call)
{
    int64_t most = 0;
    for (int64_t i = 0; i < call->nheads; i++)
        most = ha_max(most, ha_eras_of(call->heads[i].layout, call->plan->problem->causal));
    return most;
}

ha_era_at_work ha_walk_era(const ha_bundle_walk *walk, int64_t place, int64_t head, int64_t number)
{
    const ha_cpu_plan *plan = walk->call->plan;
    const ha_multipole *m = walk->multipole;
    const ha_key_head *kh = &walk->call->heads[place];
    int64_t index = place * plan->group + head;
    int causal = plan->problem->causal;
    ha_era_at_work at = {.kh = kh, .head = head, .order = &m->orders.heads[place],
                         .cells = &m->sets.cells[index]};
    at.recipe = ha_recipe_for(plan, kh->layout);
    if (number < ha_eras_of(kh->layout, causal))
        at.era = ha_era_at(kh->layout, &at.recipe, causal, number);
    int64_t epoch = ha_epoch_of(kh->layout, causal, number);
    at.query = at.cells->query + epoch * ha_cells_ldk(plan);
    if (ha_detects(plan)) {
        at.detector = &m->detectors.heads[index];
        at.basis = &at.detector->epochs[epoch];
    }
    return at;
}

static int64_t count_eras(const void *arg, int64_t place)
{
    const ha_bundle_walk *walk = arg;
    const ha_cpu_plan *plan = walk->call->plan;
    return ha_eras_of(walk->call->heads[place].layout, plan->problem->causal) * plan->group;
}

/* What the queries of an epoch are like, one item for each of its eras: the first does it. */
static void begin_epoch(void *arg, int64_t place, int64_t item, int thread)
{
    const ha_bundle_walk *walk = arg;
    const ha_multipole *m = walk->multipole;
    const ha_cpu_plan *plan = walk->call->plan;
    int causal = plan->problem->causal;
    int64_t number = item / plan->group;
    const ha_era_at_work at = ha_walk_era(walk, place, item % plan->group, number);
    const ha_era epoch = ha_epoch_at(at.kh->layout, &at.recipe, causal, number);
    double start = ha_clock(walk->call);
    if (number != ha_epoch_of(at.kh->layout, causal, number) || epoch.nq == 0)
        return;
    ha_cells_mean(plan, &m->sets, thread, at.kh, at.head, &epoch, at.query);
    if (at.detector)
        ha_detector_begin(plan, &m->detectors, thread, at.basis, at.kh, at.head, at.order,
                          &epoch);
    ha_clock_add(walk->call, thread, HA_STAGE_HASH, start);
}

void ha_walk_begin(ha_bundle_walk *walk)
{
    ha_orders_sort(walk->call, &walk->multipole->orders);
    ha_for_items(walk->call, count_eras, begin_epoch, walk);
}

/* ---- cells ----------------------------------------------------------------------------------- */

/* Cells of an item: those of a panel. */
static int64_t item_cells(const ha_cpu_plan *plan)
{
    return plan->kernels->f32.nr;
}

static int64_t cells_of(const ha_era_at_work *at)
{
    return (at->era.end + at->recipe.cell - 1) / at->recipe.cell;
}

/* The first item of cells that the era before has not left. */
static int64_t first_item(const ha_cpu_plan *plan, const ha_era_at_work *at)
{
    return at->era.fresh / at->recipe.cell / item_cells(plan);
}

static int64_t count_cells(const void *arg, int64_t place)
{
    const ha_bundle_walk *walk = arg;
    const ha_cpu_plan *plan = walk->call->plan;
    const ha_era_at_work at = ha_walk_era(walk, place, 0, walk->number);
    int64_t items = (cells_of(&at) + item_cells(plan) - 1) / item_cells(plan);
    int any = at.era.nq && at.era.fresh < at.era.end;
    return any ? (items - first_item(plan, &at)) * plan->group : 0;
}

static void expand_cells(void *arg, int64_t place, int64_t item, int thread)
{
    const ha_bundle_walk *walk = arg;
    const ha_multipole *m = walk->multipole;
    const ha_cpu_plan *plan = walk->call->plan;
    const ha_era_at_work at = ha_walk_era(walk, place, item % plan->group, walk->number);
    int64_t first = (first_item(plan, &at) + item / plan->group) * item_cells(plan);
    int64_t end = ha_min(first + item_cells(plan), cells_of(&at));
    double start = ha_clock(walk->call);
    for (int64_t x = first; x < end; x++) {
        const ha_cell cell = ha_cell_at(&at.recipe, at.order, &at.era, x);
        ha_cells_expand(plan, &m->sets, thread, at.kh, at.cells, &cell, at.query, at.recipe.sinks);
    }
    if (at.basis && at.basis->usable)
        ha_detector_open(plan, at.detector, at.cells, first, end - first);
    for (int64_t x = first; at.basis && at.basis->usable && x < end; x++) {
        const ha_cell cell = ha_cell_at(&at.recipe, at.order, &at.era, x);
        ha_detector_encode(plan, &m->detectors, thread, at.detector, at.basis, at.kh, at.cells,
                           &cell);
    }
    ha_clock_add(walk->call, thread, HA_STAGE_HASH, start);
}

void ha_walk_begin_era(ha_bundle_walk *walk)
{
    ha_for_items(walk->call, count_cells, expand_cells, walk);
}

int64_t ha_walk_bundles(const ha_bundle_walk *walk, int64_t place)
{
    const ha_cpu_plan *plan = walk->call->plan;
    const ha_era_at_work at = ha_walk_era(walk, place, 0, walk->number);
    return ha_era_bundles(at.kh->layout, &at.recipe, plan->problem->causal, &at.era) * plan->group;
}
