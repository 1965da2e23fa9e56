/* SPDX-License-Identifier: Apache-2.0
 *
 * Exact attention in float64, written as the definition: scores, softmax, weighted sum. Any dtype,
 * layout, ragged batch, group of query heads and causal alignment that the library takes.
 */
#ifndef ORACLE_H
#define ORACLE_H

#include "tensors.h"

typedef struct oracle {
    double *out;  /* [rows][dv], in the order of lse */
    double *lse;  /* [rows] */
    double *slip;     /* [rows][dv]: what rounding costs out, see oracle_compare */
    double *lse_slip; /* [rows]: sum_k p_k a_k, the same for lse */
    int64_t *nkeys;   /* [rows]: keys that the row sees */
    int64_t rows, dv;
    double plain_error; /* 16-bit: largest error of a plain implementation in that type */
} oracle;

/* For 16-bit tensors plain_error is computed too. */
oracle oracle_exact(const tensors *t);
void oracle_free(oracle *o);
/* Puts out and lse into t, rounded to its type: what backward is given. */
void oracle_store(const oracle *o, tensors *t);

/* Compares out and lse of t with the oracle. The f32 tolerance of an element is
 *     8 (1 + nkeys) eps |out|  +  eps slip,   slip = sum_k p_k (|v_k| + |v_k - out| a_k):
 * oneDNN's form, and the a_k = 4 softmax_scale sum_c |q_c k_kc| that the rounding of large scores
 * costs whoever computes them in f32.
 * 16-bit tensors follow FlashAttention's rule: at most twice the error of a plain implementation in
 * the type, plus the rounding of out. loosen multiplies the tolerance (1: as it is). */
const char *oracle_compare(const oracle *o, const tensors *t, double loosen);

/* ||out - oracle||_F / ||oracle||_F over all rows: the error of an approximation. */
double oracle_error(const oracle *o, const tensors *t);

/* alpha and kappa of one head as hyperattn_measure defines them, from n of its query rows, of which
 * row[i] stands for weight[i]. large: the share of a row's sum from which an entry is removed. */
typedef struct hardness {
    double alpha, kappa;
} hardness;

hardness oracle_hardness(const tensors *t, int64_t b, int64_t h, const uint32_t *row,
                         const int64_t *weight, int64_t n, double large);

#endif
