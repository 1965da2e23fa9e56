/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HA_CPUFEAT_H
#define HA_CPUFEAT_H

#include "kernels.h"

/* Whether this processor and operating system can run a level. AVX2 means AVX2, FMA and F16C;
 * AVX-512 means F, BW, DQ and VL besides. The bf16 levels mean the bf16 instructions besides. */
int ha_cpu_has(ha_level level);

#endif
