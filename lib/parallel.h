/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HA_PARALLEL_H
#define HA_PARALLEL_H

#include <stdatomic.h>
#include <stdint.h>

/* Threads that a context with nthreads = 0 gets. */
int ha_default_threads(void);

/* Whether the caller is inside a parallel region. */
int ha_in_parallel(void);

/* Runs body(arg, i, thread) for i in [0, n), in ascending order of start, each i on one of nthreads
 * threads numbered from 0. One thread, or a child of fork(), enters no parallel region. */
void ha_parallel_for(int nthreads, int64_t n, void (*body)(void *arg, int64_t i, int thread),
                     void *arg);

/* The same, but body(arg, i, thread) starts only after all of lower i have started, so that it may
 * wait for what they do. */
void ha_parallel_ordered(int nthreads, int64_t n, void (*body)(void *arg, int64_t i, int thread),
                         void *arg);

/* Waits until *counter is at least value, which a lower i of ha_parallel_ordered makes it. What its
 * thread wrote before is then visible. */
void ha_await(const atomic_int_least64_t *counter, int64_t value);

#endif
