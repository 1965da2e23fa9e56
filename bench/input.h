/* SPDX-License-Identifier: Apache-2.0
 *
 * Queries, keys and values of one problem, and the gradient of its output for backward, from .npy
 * files or generated.
 */
#ifndef BENCH_INPUT_H
#define BENCH_INPUT_H

#include <stdbool.h>

#include "gen.h"
#include "hyperattn.h"

/* Packed [batch, heads, rows, dim]. */
typedef struct tensor {
    hyperattn_dtype dtype;
    int64_t batch, heads, rows, dim;
    void *data;
} tensor;

typedef struct input {
    tensor q, k, v;
    tensor dout; /* [batch, heads of q, rows of q, dim of v]; data NULL: no backward */
    int rank; /* 2, 3 or 4: how many of the four sizes the files have */
    bool same_rows; /* q has as many rows as k: prefixes make sense */
} input;

typedef struct input_files {
    const char *q, *k, *v;
    const char *dout; /* may be NULL */
} input_files;

/* How an input's type is chosen. */
typedef struct input_dtype {
    bool given;
    hyperattn_dtype dtype;
    bool convert; /* files of another type are converted; otherwise they are refused */
} input_dtype;

/* Each returns an exit status; input_free is needed after failures too. */
int input_load(input *in, const input_files *files, const input_dtype *type);
int input_generate(input *in, const gen_spec *spec, int64_t rows, hyperattn_dtype dtype);
void input_free(input *in);

/* Makes the dout of the first rows of each sequence, packed, in place of what was there. */
int input_generate_dout(input *in, const gen_spec *spec, int64_t rows);

/* f32 copies of the same values: of q, k and v, or of dout in place of what was there. */
int input_copy_f32(input *copy, const input *in);
int input_copy_dout_f32(input *copy, const input *in);

/* The problem of the first rows of each sequence (0: of all), and of the first heads query heads
 * (0: of all). Causal, scale are left at their defaults. */
void input_problem(hyperattn_problem *problem, const input *in, int64_t rows, int64_t heads);

/* Elements of q, k and v together for such a problem. */
int64_t input_elements(const hyperattn_problem *problem);

/* Scores that are computed: query rows times keys over all heads, half of them when causal. */
double input_pairs(const hyperattn_problem *problem);

#endif
