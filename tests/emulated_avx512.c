/* SPDX-License-Identifier: Apache-2.0
 *
 * The AVX-512 kernels compiled with HA_EMULATE_AVX512, that is, against SIMDe.
 */
#include "simd/avx512.c"
