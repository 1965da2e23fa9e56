/* SPDX-License-Identifier: Apache-2.0
 *
 * Exact attention for the portable level, with OpenBLAS for its matrix products.
 */
#ifndef HA_EXACT_BLAS_H
#define HA_EXACT_BLAS_H

#include "cpu/unit.h"

/* Whether a plan's exact attention goes this way: portable kernels, EXACT, a build with
 * OpenBLAS. */
int ha_exact_blas_serves(const ha_plan *plan);

/* Floats that it needs in a scratch's tile. */
int64_t ha_exact_blas_scratch(int64_t ldacc);

/* Every leaf of the units in flight, from serial code: OpenBLAS brings its own threads. Inside a
 * parallel region of the caller it must not be called, and plain loops take its place. */
void ha_exact_blas(ha_run *run);

#endif
