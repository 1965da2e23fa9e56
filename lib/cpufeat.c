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

unsigned ha_cpu_features(void)
{
    unsigned a, b, c, d, b7, leaves, a71 = 0, has = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !BITS(c, bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C) ||
        !__get_cpuid_count(7, 0, &leaves, &b7, &c, &d))
        return 0;
    unsigned long long saved = xcr0();
    if (leaves >= 1)
        __get_cpuid_count(7, 1, &a71, &b, &c, &d);
    if (BITS(b7, bit_AVX2) && BITS(saved, 0x6))
        has |= HA_CPU_AVX2;
    if (BITS(b7, bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL) && BITS(saved, 0xe6))
        has |= HA_CPU_AVX512;
    if (BITS(a71, 1u << 5))
        has |= HA_CPU_AVX512_BF16;
    return has;
}

#elif defined(__aarch64__) && defined(__linux__)
#include <errno.h>
#include <sys/auxv.h>

/* Older headers lack the names. */
#ifndef AT_HWCAP2
#define AT_HWCAP2 26
#endif
#ifndef HWCAP2_BF16
#define HWCAP2_BF16 (1 << 14)
#endif

unsigned ha_cpu_features(void)
{
    int before = errno; /* which getauxval sets where the kernel is too old to know AT_HWCAP2 */
    unsigned has = getauxval(AT_HWCAP2) & HWCAP2_BF16 ? HA_CPU_ARM_BF16 : 0;
    errno = before;
    return has;
}

#else

unsigned ha_cpu_features(void)
{
    return 0;
}

#endif
