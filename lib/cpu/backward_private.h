/* SPDX-License-Identifier: Apache-2.0
 *
 * Gradients of MULTIPOLE's private keys. A key whose exact weight is e, and whose column's word for
 * it m, entered its row with (e - m) v, so that with g = dout.v - delta
 *     dv += (e - m) dout    dk += e g q    dq += e g k - m g kt    dkt -= m g q
 * where kt is the column's key. e and m are relative to the row's sum here.
 */
#ifndef HA_BACKWARD_PRIVATE_H
#define HA_BACKWARD_PRIVATE_H

#include "cpu/columns.h"
#include "cpu/grad.h"
#include "cpu/private.h"

/* What rows of the bundle add to keys: k q_row to dk, and v dout_row to dv. */
typedef struct ha_private_terms {
    int64_t n;
    uint32_t *key, *row;
    float *k, *v;
} ha_private_terms;

/* One thread's buffers. */
typedef struct ha_private_grad {
    ha_private_terms found;  /* of the bundle at work, row by row */
    ha_private_terms sorted; /* the same, key by key */
    uint32_t *keys, *end;    /* the keys that have terms; [nk]: where a key's terms end */
    int64_t nkeys;
    uint32_t *exact;         /* its rows that attend to all keys exactly */
    int64_t nexact;
    float *dout;             /* of its rows as f32, [rows][ldv] */
    float *sum;              /* a row of q, k or v */
    /* for one row: */
    float *slope;            /* dout.v of its keys */
    uint32_t *column;        /* of runs of keys that have the same one, */
    float *weight;           /* and what the run gives to it */
} ha_private_grad;

void ha_private_grad_carve(ha_carver *c, const ha_cpu_plan *plan, ha_private_grad *g);

/* A bundle that is about to look for private keys, and what takes its gradients beside terms. */
typedef struct ha_private_taker {
    const ha_cpu_plan *plan;
    ha_private_grad *g;
    const ha_query_rows *at;
    const ha_bundle_work *work;
    float *lse;         /* of the rows, as log2; +inf from then on where a row attends exactly */
    const float *delta;
    float *dq;          /* [rows][ldgrad] */
    ha_column_sums columns;
} ha_private_taker;

/* No terms yet. */
void ha_private_grad_begin(const ha_private_taker *taker);

/* The take of ha_open_bundle; arg is the taker. */
void ha_private_grad_take(void *arg, const ha_private_row *found);

/* All rows have been looked at: sorts the terms. */
void ha_private_grad_end(const ha_private_taker *taker);

/* Adds them to the sums of the keys. */
void ha_private_grad_add(const ha_private_taker *taker, const ha_sums *sums);

#endif
