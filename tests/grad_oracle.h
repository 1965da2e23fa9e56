/* SPDX-License-Identifier: Apache-2.0
 *
 * Gradients of attention in float64, for any pattern: those of
 *     loss = sum dout out
 * with respect to q, k and v, the pattern (keys, weights and floors) held fixed. Each is the sum
 * over pairs of row and key of the textbook, with what the cap and the floor of Algorithm 2 do to
 * it; check_grad_oracle.c proves them by finite differences.
 */
#ifndef GRAD_ORACLE_H
#define GRAD_ORACLE_H

#include "pattern.h"

/* In each array of three: of q, k and v. */
typedef struct grad_oracle {
    double *value[3]; /* at tensors_at() of the gradient */
    double *slip[3];  /* what rounding in f32 costs, in units of eps */
    double plain_error[3];
} grad_oracle;

/* Of the out and lse that t holds, or, where forward is given, of that. */
grad_oracle grad_oracle_of(const tensors *t, const pattern *p, const oracle *forward);
/* Sets plain_error, for 16-bit tensors: the largest error of a plain implementation in the type. */
void grad_oracle_plain(grad_oracle *g, const tensors *t, const pattern *p);
void grad_oracle_free(grad_oracle *g);

/* How a result may differ from the oracle. */
typedef enum grad_rule {
    GRAD_F32,  /* rounding of f32 arithmetic, and one rounding to the tensors' type */
    GRAD_PLAIN /* and twice plain_error */
} grad_rule;

/* Compares dq, dk and dv of t. The tolerance of an element is
 *     8 eps |value| + eps slip
 * where slip adds up, over the terms of the element's sum, what each may be off by: the weight by
 * its score and lse (slack a_k of oracle.h), the difference dout.v - delta by the sizes of its two
 * dot products, and their product by the additions. loosen multiplies it. */
const char *grad_compare(const grad_oracle *g, const tensors *t, grad_rule rule, double loosen);

#endif
