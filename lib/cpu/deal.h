/* SPDX-License-Identifier: Apache-2.0
 *
 * Items of work of several key heads, dealt in turn: item x of every key head that has one comes
 * before item x + 1 of any. So key heads of unlike lengths share the threads, and no loop is longer
 * than what there is to do.
 */
#ifndef HA_DEAL_H
#define HA_DEAL_H

#include "workspace.h"

typedef struct ha_deal {
    int64_t nheads;
    int64_t *count;  /* [nheads + 1] of each key head, largest first; then 0 */
    int64_t *begin;  /* [nheads + 1]: first item of all that only the first j key heads have */
    int32_t *order;  /* [nheads]: key heads, by count */
    int64_t n;       /* items of all */
} ha_deal;

void ha_deal_carve(ha_carver *c, ha_deal *deal, int64_t most_heads);

/* Begins a deal among key heads [0, nheads). */
void ha_deal_open(ha_deal *deal, int64_t nheads);

/* Key head `head` has count items; in ascending order of head. */
void ha_deal_add(ha_deal *deal, int64_t head, int64_t count);

/* All have been added. */
void ha_deal_close(ha_deal *deal);

/* The key head of item i of all, and the number that the item has in it. */
int64_t ha_deal_at(const ha_deal *deal, int64_t i, int64_t *item);

#endif
