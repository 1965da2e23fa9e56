/* SPDX-License-Identifier: Apache-2.0
 *
 * The floating-point mode in which a call computes: rounding to nearest, no traps, and numbers
 * below 2^-126 read and written as 0. Subnormal numbers cost most processors some hundred cycles
 * each, and weights far from a row's largest one are subnormal by nature. With one mode set in
 * every thread, the bits depend neither on the caller's mode nor on which thread computes what.
 */
#ifndef HA_FPMODE_H
#define HA_FPMODE_H

#include <stdint.h>

#if defined(__SSE__)

/* All exceptions masked, flush to zero, denormals are zero. */
#define HA_FPMODE 0x9fc0u

static inline uint64_t ha_fpmode_get(void)
{
    uint32_t mode;
    __asm__ volatile("stmxcsr %0" : "=m"(mode));
    return mode;
}

static inline void ha_fpmode_set(uint64_t mode)
{
    uint32_t low = (uint32_t)mode;
    __asm__ volatile("ldmxcsr %0" : : "m"(low) : "memory");
}

#elif defined(__aarch64__)

/* Flush to zero, of inputs too. */
#define HA_FPMODE (1u << 24)

static inline uint64_t ha_fpmode_get(void)
{
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
}

static inline void ha_fpmode_set(uint64_t mode)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(mode) : "memory");
}

#else

#define HA_FPMODE 0u

static inline uint64_t ha_fpmode_get(void)
{
    return 0;
}

static inline void ha_fpmode_set(uint64_t mode)
{
    (void)mode;
}

#endif

#endif
