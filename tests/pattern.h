/* SPDX-License-Identifier: Apache-2.0
 *
 * What every query row attends to, and attention over that in float64. Exact attention is the
 * pattern in which a row attends to each key that it sees; hyper_oracle.h makes the patterns of
 * HyperAttention. A pattern stays as it is when q, k and v change, as hashes, samples and weights
 * do where gradients are concerned.
 */
#ifndef PATTERN_H
#define PATTERN_H

#include "oracle.h"

typedef struct pattern_entry {
    int64_t key;
    double log; /* of the weight */
} pattern_entry;

/* What one rectangle or leaf contributes to a row: entries from `exact` on, then samples. */
typedef struct pattern_part {
    int64_t exact, sampled;
    double floor; /* tau / kappa: what the samples sum to at least; -1: neither cap nor floor */
    double log_n; /* the cap of a sampled entry is (exact sum + floor) / log_n */
} pattern_part;

typedef struct pattern_row {
    pattern_entry *entries;
    pattern_part *parts;
    int64_t nentries, nparts;
} pattern_row;

typedef struct pattern {
    pattern_row *rows; /* in the order of lse */
    int64_t nrows;
} pattern;

/* What a computation met, so that a test can tell that it tested something. */
typedef struct hyper_counts {
    int64_t leaf;      /* pairs of row and key in causal leaves */
    int64_t exact;     /* pairs in blocks, sinks and windows of rectangles */
    int64_t weighted;  /* sampled pairs with a weight other than 1 */
    int64_t capped;    /* sampled pairs that the cap lowered */
    int64_t floored;   /* row sums of samples that the floor raised */
    int64_t ambiguous; /* projections whose sign f32 rounding could turn: nothing is known then */
} hyper_counts;

pattern pattern_new(int64_t nrows);
void pattern_free(pattern *p);
/* The next part of a row; its exact entries come first. */
void pattern_begin(pattern_row *row, double floor, double log_n);
void pattern_add(pattern_row *row, int64_t key, double log, int sampled);

/* Each row's keys that it sees, in one exact part. */
pattern pattern_exact(const tensors *t);

/* ---- one head of one sequence, as float64 --------------------------------------------------- */

typedef struct head_data {
    const tensors *t;
    int64_t b, h, kv, nq, nk, d, dv;
    double scale;
    double *q, *k, *v; /* [nq][d], [nk][d], [nk][dv] */
} head_data;

head_data head_load(const tensors *t, int64_t b, int64_t h);
void head_unload(head_data *x);
double head_score(const head_data *x, int64_t i, int64_t j);
/* a_k of oracle.h */
double head_slack(const head_data *x, int64_t i, int64_t j);

/* ---- attention ------------------------------------------------------------------------------- */

/* The terms of a row's softmax, as natural logarithms. */
typedef struct row_terms {
    double *log;     /* [nentries]: score and weight, or the cap */
    char *capped;    /* [nentries] */
    double *raised;  /* [nparts]: what the floor adds to the row sum alone; or -inf */
    char *at_cap, *at_floor; /* [nentries], [nparts]: f32 may take it for the other case */
    int64_t nentries, nparts;
} row_terms;

row_terms row_terms_of(const head_data *x, int64_t i, const pattern_row *row, hyper_counts *counts);
void row_terms_free(row_terms *terms);
/* Of the row sum. */
double row_terms_lse(const row_terms *terms);

/* x as it is after a store in the type. */
double stored(double x, hyperattn_dtype dtype);

/* Adds what the cap and the floor did to counts. To be compared by oracle_compare: nkeys is the
 * square root of a row's terms, whose roundings are independent, so that f32 must agree to about
 * 1e-5. */
oracle pattern_forward(const tensors *t, const pattern *p, hyper_counts *counts);

#endif
