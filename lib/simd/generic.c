/* SPDX-License-Identifier: Apache-2.0 */
#include "vec_generic.h"

#include "body.h"

const ha_kernels ha_kernels_generic = {BODY_KERNELS(generic)};
