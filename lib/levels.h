/* SPDX-License-Identifier: Apache-2.0
 *
 * The instruction-set levels of the architecture that is compiled for, worst first. A line
 * X(NAME, name, needs) makes HA_LEVEL_NAME, the level's name, its table ha_kernels_<name> and its
 * place in every list; needs is what it asks of ha_cpu_features(). HA_HAVE_NAME, from configure, is
 * 1 if this build has it.
 */
#ifndef HA_LEVELS_H
#define HA_LEVELS_H

#include "cpufeat.h"

#if defined(__x86_64__) || defined(__i386__)
#define HA_LEVEL_LIST(X)                                                        \
    X(REF, ref, 0)                                                              \
    X(GENERIC, generic, 0)                                                      \
    X(AVX2, avx2, HA_CPU_AVX2)                                                  \
    X(AVX512, avx512, HA_CPU_AVX2 | HA_CPU_AVX512)                              \
    X(AVX512BF16, avx512bf16, HA_CPU_AVX2 | HA_CPU_AVX512 | HA_CPU_AVX512_BF16)
#elif defined(__aarch64__)
#define HA_LEVEL_LIST(X)                                                        \
    X(REF, ref, 0)                                                              \
    X(GENERIC, generic, 0)                                                      \
    X(NEON, neon, 0) /* part of the base architecture */                        \
    X(NEONBF16, neonbf16, HA_CPU_ARM_BF16)
#else
#define HA_LEVEL_LIST(X)                                                        \
    X(REF, ref, 0)                                                              \
    X(GENERIC, generic, 0)
#endif

#define HA_LEVEL_ENUM(NAME, name, needs) HA_LEVEL_##NAME,
typedef enum ha_level { HA_LEVEL_LIST(HA_LEVEL_ENUM) HA_LEVELS } ha_level;
#undef HA_LEVEL_ENUM

const char *ha_level_name(ha_level level);

/* Whether this build has a level, and whether this processor and operating system can run it. */
int ha_level_is_built_in(ha_level level);
int ha_level_runs_here(ha_level level);

#endif
