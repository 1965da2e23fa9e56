/* SPDX-License-Identifier: Apache-2.0
 *
 * The tensors of one problem in guarded memory, with access by index for every dtype, layout and
 * ragged batch, and the whole way from a problem to its output in one call.
 */
#ifndef TENSORS_H
#define TENSORS_H

#include "testutil.h"

typedef enum operand {
    T_Q,
    T_K,
    T_V,
    T_OUT,
    T_DQ, /* the gradients lie as what they are gradients of */
    T_DK,
    T_DV,
    T_DOUT,
    OPERANDS
} operand;

typedef struct tensors {
    hyperattn_problem problem; /* as the library gets it */
    hyperattn_problem full;    /* the same with every default and stride spelled out */
    placement at;
    guarded mem[OPERANDS]; /* the gradients' are empty before tensors_fill_dout */
    guarded lse;
    int64_t elements[OPERANDS]; /* that mem holds, gaps between rows included */
    int64_t rows;               /* entries of lse */
} tensors;

typedef enum fill {
    FILL_GAUSS,     /* all N(0, 1) */
    FILL_CLUSTERED, /* q and k around 8 shared centres: a few keys get most of the weight */
    FILL_EXTREME    /* q and k with zeros, subnormal and huge entries: scores up to 1e30 and more */
} fill;

/* A problem of one sequence with the default layout; the fields not named have their defaults. */
hyperattn_problem problem_of(int64_t nheads, int64_t seqlen, int64_t head_dim);

/* Inputs hold zeros and outputs signalling NaNs. The problem must be valid. */
tensors tensors_new(const hyperattn_problem *problem, placement at);
void tensors_free(tensors *t);

void tensors_fill(tensors *t, fill kind, uint64_t seed);
/* Makes room for the gradients, if there is none, and fills dout with N(0, 1). */
void tensors_fill_dout(tensors *t, uint64_t seed);
/* out and lse, or the gradients that backward writes, become signalling NaNs. */
void tensors_reset(tensors *t);
void tensors_reset_gradients(tensors *t);

/* Rows of sequence b, and the width of a row. */
int64_t tensors_nrows(const tensors *t, operand which, int64_t b);
int64_t tensors_dim(const tensors *t, operand which);
int64_t tensors_heads(const tensors *t, operand which);

/* Position of element 0 of a row in its array; the head is a key head for k, v, dk
 * and dv. */
int64_t tensors_at(const tensors *t, operand which, int64_t b, int64_t h, int64_t i);
double tensors_get(const tensors *t, operand which, int64_t b, int64_t h, int64_t i, int64_t c);
void tensors_put(tensors *t, operand which, int64_t b, int64_t h, int64_t i, int64_t c,
                 double value);
/* The whole row. */
void tensors_set_row(tensors *t, operand which, int64_t b, int64_t h, int64_t i, double value);

/* Place of a query row in lse. */
int64_t tensors_row(const tensors *t, int64_t b, int64_t h, int64_t i);
float tensors_lse(const tensors *t, int64_t b, int64_t h, int64_t i);

/* Whether query row i of sequence b may see key j. */
int tensors_sees(const tensors *t, int64_t b, int64_t i, int64_t j);

/* Resets the outputs and computes them with a plan of ctx, a workspace of exactly the size that
 * the plan names, full of NaNs, and inputs that fault on a write. Says what the library refused,
 * any byte written outside out's rows, lse and the workspace, any element of out not written. */
const char *tensors_forward(tensors *t, hyperattn_ctx *ctx, const hyperattn_params *params);

/* The same with a context for this call alone: under a ceiling (as in ctx_at), with nthreads. */
const char *tensors_run(tensors *t, const hyperattn_params *params, const char *level,
                        int nthreads);

/* The same for hyperattn_backward: dq, dk and dv from q, k, v, dout, out and lse as they are. */
const char *tensors_backward(tensors *t, hyperattn_ctx *ctx, const hyperattn_params *params);
const char *tensors_run_backward(tensors *t, const hyperattn_params *params, const char *level,
                                 int nthreads);

/* Copies of out, lse and the gradients as they are, to be compared bit for bit later. */
typedef struct saved {
    void *out;
    float *lse;
    void *gradient[3]; /* of q, k and v; NULL where there is none */
} saved;

saved tensors_save(const tensors *t);
void saved_free(saved *s);
/* Says the first row, of those below rows_end in each sequence, whose bits are not the same. */
const char *tensors_same_bits(const tensors *t, const saved *s, int64_t rows_end);
/* The same of the gradients: rows of dq below rows_end, of dk and dv below keys_end. */
const char *tensors_same_gradients(const tensors *t, const saved *s, int64_t rows_end,
                                   int64_t keys_end);

#endif
