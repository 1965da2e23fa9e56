/* SPDX-License-Identifier: Apache-2.0
 *
 * The float64 oracle of MULTIPOLE, row by row: the terms that a row's softmax is a sum of.
 */
#ifndef MULTIPOLE_TERMS_H
#define MULTIPOLE_TERMS_H

#include <stdlib.h>

#include "multipole_oracle.h"

typedef struct term {
    int64_t key, value; /* whose score and whose value: a key, or nk + number of a column */
    double log, sign;
    double slip; /* what f32 may make of it, in units of eps; before it has a score, of SLIP */
} term;

/* Values, and the same sums without signs. */
typedef struct sums {
    double *value, *size;
} sums;

/* One query head. Its keys and values are followed by those of the columns of one bundle. */
typedef struct head {
    head_data x;
    double *value_size; /* as x.v: of a column's value, without the signs of those it is made of */
    int64_t sinks;
    term *terms; /* of one row */
    double *p;   /* their parts of it */
    int64_t nterms;
    double lse;
    sums dk, dv;
} head;

static inline void *zeros(int64_t n, size_t size)
{
    return calloc((size_t)n + 1, size);
}

/* to += weight * from */
static inline void add(double *to, double weight, const double *from, int64_t n)
{
    for (int64_t c = 0; c < n; c++)
        to[c] += weight * from[c];
}

sums sums_new(int64_t n);
void sums_free(sums *s);

head head_new(const tensors *t, int64_t b, int64_t h, int64_t sinks);
void head_free(head *one);

/* Keys and values of a bundle's columns, behind those of the head. */
void build_columns(const head *one, const bundle_model *m);

/* Row `row` of a head, which is row i of a bundle, or has no past: m NULL. */
void list_terms(head *one, const bundle_model *m, int64_t i, int64_t row);

/* Scores are added to the logarithms of terms, and slacks to their slips; and the row's lse. */
void score_terms(head *one, int64_t row);

/* p: the terms' parts of exp(lse). */
void weigh_terms(head *one, double lse);

#endif
