/* SPDX-License-Identifier: Apache-2.0
 *
 * Operator norms (largest singular values) by power iteration: x is replaced by M'M x, of length 1,
 * until |M x| grows by no more than a tolerance. What is returned is |M x| of such an x, so never
 * more than the norm, but for rounding.
 */
#ifndef BENCH_SPECTRAL_H
#define BENCH_SPECTRAL_H

#include <stdint.h>

#include "softmax.h"

/* Of a dense matrix a [rows, dim] or, with b, of a - b. Iterates in double until the growth is
 * below 1e-7. -1 after a message if there is no memory; NaN for a matrix with NaN or infinities. */
double spectral_dense(const float *a, const float *b, int64_t rows, int64_t dim);

/* Of the softmax matrix. Products in f32, sums over vectors in double, until the growth is below
 * 1e-5. An exit status. */
int spectral_softmax(double *norm, softmax *s);

#endif
