/* SPDX-License-Identifier: Apache-2.0
 *
 * MULTIPOLE's content order: keys of each stretch, and rows of each leaf or stretch, sorted so that
 * those which resemble each other lie together, in cells and bundles. A stretch is cut in halves
 * along its leading direction, again and again.
 */
#ifndef HA_ORDER_H
#define HA_ORDER_H

#include "algo/multipole.h"
#include "cpu/call.h"
#include "workspace.h"

typedef struct ha_order {
    uint32_t *old, *young; /* keys in long and in short stretches: [nk] each */
    uint32_t *rows;        /* [group][nq] */
    uint32_t *steering;    /* the same by content alone, where later rows steer none */
} ha_order;

typedef struct ha_orders {
    ha_order *heads; /* of the key heads in flight */
    struct ha_order_thread *threads;
} ha_orders;

void ha_orders_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads, ha_orders *orders);

static inline ha_recipe ha_recipe_for(const ha_cpu_plan *plan, const ha_layout *layout)
{
    return ha_recipe_of(plan->params, layout->nq, layout->nk, plan->problem->causal);
}

/* Sorts the key heads in flight. */
void ha_orders_sort(ha_call *call, const ha_orders *orders);

/* The keys at positions [first, ...) of the past of an era. Cells do not cross its two parts. */
static inline const uint32_t *ha_past_keys(const ha_order *order, const ha_era *era, int64_t first)
{
    return (first < era->old ? order->old : order->young) + first;
}

#endif
