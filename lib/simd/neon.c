/* SPDX-License-Identifier: Apache-2.0 */
#include "vec_neon.h"

#include "body.h"

const ha_kernels ha_kernels_neon = {BODY_KERNELS(neon)};
