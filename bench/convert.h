/* SPDX-License-Identifier: Apache-2.0
 *
 * Arrays of the three tensor types to and from f32, rounded to nearest even.
 */
#ifndef BENCH_CONVERT_H
#define BENCH_CONVERT_H

#include <stddef.h>
#include <stdint.h>

#include "hyperattn.h"

size_t dtype_size(hyperattn_dtype dtype);
const char *dtype_name(hyperattn_dtype dtype); /* "f32", "bf16", "f16" */

void to_f32(float *dst, const void *src, hyperattn_dtype dtype, int64_t n);
void from_f32(void *dst, hyperattn_dtype dtype, const float *src, int64_t n);

#endif
