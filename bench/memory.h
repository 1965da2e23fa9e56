/* SPDX-License-Identifier: Apache-2.0
 *
 * Buffers for tensors: sizes checked for overflow and against the memory that is available, 64-byte
 * aligned, in huge pages if they are large, every page touched before anything is timed.
 */
#ifndef BENCH_MEMORY_H
#define BENCH_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* *size = the product of n factors; false if one is negative or the product exceeds PTRDIFF_MAX. */
bool size_product(size_t *size, int n, const int64_t *factors);

/* Bytes that can be had without swapping, or SIZE_MAX where the system does not say. */
size_t memory_available(void);

/* False, after a message that names what, if bytes are more than is available. */
bool memory_fits(size_t bytes, const char *what);

/* Zeroed, 64-byte aligned; NULL after a message that names what. bytes may be 0. */
void *buffer_alloc(size_t bytes, const char *what);
void buffer_free(void *buffer);

#endif
