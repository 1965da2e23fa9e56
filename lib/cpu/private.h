/* SPDX-License-Identifier: Apache-2.0
 *
 * MULTIPOLE's private keys: those that a detector finds for one row enter it with exp(exact score)
 * less what their column says of them already. The sums of columns stay as they are.
 */
#ifndef HA_PRIVATE_H
#define HA_PRIVATE_H

#include "cpu/bundle.h"

typedef struct ha_privates {
    struct ha_private_thread *threads;
} ha_privates;

void ha_privates_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads, ha_privates *privates);

/* The private keys of row i of a bundle. Weights are relative to 2^top. */
typedef struct ha_private_row {
    int64_t i, n;
    const uint32_t *key;
    const int32_t *column;        /* a key's among those of the bundle; -1: it has none */
    const float *exact, *model;   /* what a key weighs, and what its column says that it does */
    float top;
    float sum;  /* of all that the row sees, with them */
    int in_doubt; /* its digits are: the row attends to all keys exactly instead */
} ha_private_row;

/* A bundle whose rows have seen all else, as s says. */
typedef struct ha_open_bundle {
    const ha_query_rows *at;
    const ha_bundle_work *work;
    const ha_cells *cells;
    const ha_order *order;
    const ha_era *era;
    const ha_hits *hits; /* private ones */
    ha_softmax *s;
    /* takes what is found of a row, in place of s; or NULL */
    void (*take)(void *arg, const ha_private_row *found);
    void *arg;
} ha_open_bundle;

/* Adds the private keys of its rows, or has them taken. */
void ha_private_keys(const ha_cpu_plan *plan, const ha_privates *privates, int thread,
                     const ha_open_bundle *bundle);

#endif
