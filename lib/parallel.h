/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HA_PARALLEL_H
#define HA_PARALLEL_H

#include <stdint.h>

/* Threads that a context with nthreads = 0 gets. */
int ha_default_threads(void);

/* Whether the caller is inside a parallel region. */
int ha_in_parallel(void);

/* Runs body(arg, i, thread) for i in [0, n), in ascending order of start, each i on one of nthreads
 * threads numbered from 0. One thread, or a child of fork(), enters no parallel region. */
void ha_parallel_for(int nthreads, int64_t n, void (*body)(void *arg, int64_t i, int thread),
                     void *arg);

#endif
