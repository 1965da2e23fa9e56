/* SPDX-License-Identifier: Apache-2.0
 *
 * A whole kernel table for f32 arithmetic, from the vocabulary of a vec_*.h. Everything is static:
 * nothing compiled for one instruction set may be picked by the linker for another.
 */
#include <math.h>

#include "body_rows.h"
#include "body_math.h"
#include "body_hash.h"
#include "body_in_place.h"
#include "body_cells.h"

static inline __attribute__((always_inline)) void store_weights_f32(float *row, const vf *p, int n)
{
    for (int i = 0; i < n; i++)
        vstore(row + i * VLEN, p[i]);
}

#define FN(name) name##_f32
#define PAIR 1
#define ROW_UNITS 1
#define BLOCK(acc, nv, ...) block(acc, MR, nv, __VA_ARGS__, vmadd)
#define STORE_P(s, r, j, p, n) store_weights_f32((s) + (r) * BC + (j), p, n)
#define BLOCK_T(acc, nv, ...) block_t(acc, MR, nv, __VA_ARGS__, vmadd)
#define STORE_GRAD(g, r, j, p, ds, n)                            \
    do {                                                         \
        store_weights_f32((g)->x + (r) * LDX + (j), p, n);       \
        store_weights_f32((g)->y + (r) * LDX + (j), ds, n);      \
    } while (0)
#include "body_attend.h"
#include "body_backward.h"
#undef FN
#undef PAIR
#undef ROW_UNITS
#undef BLOCK
#undef STORE_P
#undef BLOCK_T
#undef STORE_GRAD

/* Another arithmetic's block may have other sizes. */
enum { F32_MR = MR, F32_BR = BR, F32_GR = GR };

#define F32_ARITH                                                                      \
    {                                                                                  \
        .mr = F32_MR, .nr = NR, .lanes = VLEN, .br = F32_BR, .bc = BC, .pair = 1,      \
        .row_units = 1, .load_q = load_q, .pack_k = pack_k, .pack_v = pack_v,          \
        .attend = attend_f32, .gr = F32_GR, .gc = GC, .grad_scratch = grad_scratch_f32, \
        .backward = backward_f32,                                                      \
    }

/* The entries of a level's table that every level fills from here. */
#define BODY_KERNELS(level)                                                            \
    .name = #level, .f32 = F32_ARITH, .attend_in_place = attend_in_place,              \
    .project = project, .column_sums = column_sums, .above_bits = above_bits,          \
    .store_rows = store_rows, .dot_rows = dot_rows, .f32_peak = f32_peak,              \
    .exp2 = exp2_array, .score_rows = score_rows, .sum_rows = sum_rows,                \
    .log_sum_exp = log_sum_exp, .scan_codes = scan_codes
