/* SPDX-License-Identifier: Apache-2.0
 *
 * What the program takes from inside the library: its threads and its kernels. Stage times are in
 * profile.h, which attn.c takes.
 */
#ifndef BENCH_INTERNALS_H
#define BENCH_INTERNALS_H

#include <stdint.h>

#include "hyperattn.h"
#include "kernels.h"

/* Threads of a context, and those that one without a wish gets. */
int context_threads(const hyperattn_ctx *ctx);
int default_threads(void);

/* Runs body(arg, i, thread) for i in [0, n), each i on one of the threads, numbered from 0. */
void run_parallel(int threads, int64_t n, void (*body)(void *arg, int64_t i, int thread),
                  void *arg);

/* The kernels that a context takes. */
const ha_kernels *best_kernels(void);

#endif
