/* SPDX-License-Identifier: Apache-2.0 */
#include "vec_avx512.h"

#include "body.h"

const ha_kernels ha_kernels_avx512 = {
    .name = "avx512",
    .f32 = F32_ARITH,
    .project = project,
    .column_sums = column_sums,
    .above_bits = above_bits,
    .store_rows = store_rows,
    .dot_rows = dot_rows,
    .f32_peak = f32_peak,
    .exp2 = exp2_array,
};
