/* SPDX-License-Identifier: Apache-2.0
 *
 * What the processor can do, as far as a level of lib/levels.h asks for it.
 */
#ifndef HA_CPUFEAT_H
#define HA_CPUFEAT_H

enum {
    HA_CPU_AVX2 = 1,        /* AVX2, FMA and F16C */
    HA_CPU_AVX512 = 2,      /* F, BW, DQ and VL */
    HA_CPU_AVX512_BF16 = 4, /* the bf16 instructions of x86-64 */
    HA_CPU_ARM_BF16 = 8     /* those of AArch64 */
};

/* The sum of those that this processor has and this operating system supports. */
unsigned ha_cpu_features(void);

#endif
