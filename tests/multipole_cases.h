/* SPDX-License-Identifier: Apache-2.0
 *
 * MULTIPOLE in small: shapes and parameters that have short leaves, many cells, and rows with and
 * without a past.
 */
#ifndef MULTIPOLE_CASES_H
#define MULTIPOLE_CASES_H

#include "tensors.h"

typedef struct multipole_case {
    const char *name;
    int64_t nq, nk, heads, heads_kv, d, dv;
    int causal;
    int leaf, window, sinks, selected, candidates, cell, far_cell;
    float depth; /* 0: a shallow one; negative: no private keys */
    hyperattn_dtype dtype;
    int ragged;  /* sequences of lengths on either side of what has a past, and an empty one */
    int strided; /* rows lie apart, heads of a row beside each other */
    int strict;
} multipole_case;

typedef struct multipole_cases {
    const multipole_case *cases;
    int n;
} multipole_cases;

/* Every shape and option. */
extern const multipole_cases multipole_all;

/* Whether a case is left out, by its number: three of four under an emulator, which takes long. */
int multipole_left_out(int number);

/* What the library gets of a case. */
hyperattn_problem multipole_problem(const multipole_case *c);
hyperattn_params multipole_params(const multipole_case *c);

#endif
