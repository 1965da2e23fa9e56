/* SPDX-License-Identifier: Apache-2.0 */
#include "vec_avx512.h"

#include "body.h"

const ha_kernels ha_kernels_avx512 = {BODY_KERNELS(avx512)};
