/* SPDX-License-Identifier: Apache-2.0 */
#include "cpufeat.h"

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>

/* State that the operating system saves on a context switch. */
static unsigned long long xcr0(void)
{
    unsigned lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (unsigned long long)hi << 32 | lo;
}

#define BITS(word, mask) (((word) & (mask)) == (mask))

int ha_cpu_has(ha_level level)
{
    unsigned a, b, c, d, b7, c7, d7, a71 = 0;
    if (level == HA_LEVEL_REF)
        return 1;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !BITS(c, bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C))
        return 0;
    unsigned long long saved = xcr0();
    if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d7))
        return 0;
    unsigned leaves = a;
    int avx2 = BITS(b7, bit_AVX2) && BITS(saved, 0x6);
    int avx512 = avx2 && BITS(b7, bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL) &&
                 BITS(saved, 0xe6);
    if (leaves >= 1)
        __get_cpuid_count(7, 1, &a71, &b, &c, &d);
    switch (level) {
    case HA_LEVEL_AVX2: return avx2;
    case HA_LEVEL_AVX512: return avx512;
    case HA_LEVEL_AVX512BF16: return avx512 && BITS(a71, 1u << 5);
    default: return 0;
    }
}

#elif defined(__aarch64__)

#ifdef __linux__
#include <errno.h>
#include <sys/auxv.h>

/* Older headers lack the names. */
#ifndef AT_HWCAP2
#define AT_HWCAP2 26
#endif
#ifndef HWCAP2_BF16
#define HWCAP2_BF16 (1 << 14)
#endif

static int has_bf16(void)
{
    int before = errno; /* which getauxval sets where the kernel is too old to know AT_HWCAP2 */
    int has = (getauxval(AT_HWCAP2) & HWCAP2_BF16) != 0;
    errno = before;
    return has;
}
#else
static int has_bf16(void)
{
    return 0;
}
#endif

int ha_cpu_has(ha_level level)
{
    switch (level) {
    case HA_LEVEL_REF:
    case HA_LEVEL_NEON: return 1; /* part of the base architecture */
    case HA_LEVEL_NEONBF16: return has_bf16();
    default: return 0;
    }
}

#else

int ha_cpu_has(ha_level level)
{
    return level == HA_LEVEL_REF;
}

#endif
