/* SPDX-License-Identifier: Apache-2.0 */
#include "vec_avx2.h"

#include "body.h"

const ha_kernels ha_kernels_avx2 = {BODY_KERNELS(avx2)};
