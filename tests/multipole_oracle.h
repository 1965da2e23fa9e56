/* SPDX-License-Identifier: Apache-2.0
 *
 * MULTIPOLE in float64, with the choices of a call (multipole_choices.h): what hyperattn_forward
 * and hyperattn_backward compute, to rounding. The sizes of a recipe are the library's own, and
 * tested elsewhere; expansions, columns, softmax and gradients are done again, in plain loops.
 *
 * A row's softmax is a list of terms. A key that it attends to is a term; so is a column, with a
 * key and a value that are weighted means of those that it stands for; and a private key is two:
 * itself, and less what its column says of it, which has the column's score and the key's value.
 * Gradients are those of this list, while terms, weights and columns' logarithms stay as they are.
 */
#ifndef MULTIPOLE_ORACLE_H
#define MULTIPOLE_ORACLE_H

#include "grad_oracle.h"
#include "multipole_choices.h"

/* What a bundle's columns are. */
typedef struct bundle_model {
    const bundle_choices *choices;
    int64_t ncolumns;
    int64_t *column; /* [past]: of the key at a position; -1: none */
    double *share;   /* [past]: its part of the column */
    double *logw;    /* [ncolumns] */
    double *doubt;   /* [ncolumns]: how much larger than the rest of it what was taken out is */
} bundle_model;

typedef struct multipole_model {
    bundle_model *bundles;
    int64_t n, sinks;
    /* met, so that a test can tell that it tested something: */
    int64_t columns, merged; /* columns, and cells that share theirs with another one */
    int64_t taken, private;  /* selected keys taken out of merged cells, and private keys */
    int64_t crowded;         /* bundles that select all of their past */
    int64_t dropped;         /* merged cells of which too little was left */
    int64_t ambiguous;       /* decisions that f32 could take otherwise, and rows whose sums are in
                              * doubt: nothing is known then */
} multipole_model;

/* Of q and k as they are. */
multipole_model multipole_model_of(const tensors *t, const hyperattn_params *params,
                                   const multipole_choices *c);
void multipole_model_free(multipole_model *m);

/* To be compared by oracle_compare. */
oracle multipole_forward(const tensors *t, const multipole_model *m);

/* Of the out and lse that t holds or, where forward is given, of that. To be compared by
 * grad_compare. */
grad_oracle multipole_gradients(const tensors *t, const multipole_model *m, const oracle *forward);

#endif
