/* SPDX-License-Identifier: Apache-2.0
 *
 * Threads of a call. A call opens one parallel region; inside it, the calling thread goes through
 * the call's stages and posts loops, which the others help with. Between two loops nobody waits for
 * a thread that has nothing in hand: on a machine with other work to do, a loop takes as long as
 * its items.
 */
#ifndef HA_PARALLEL_H
#define HA_PARALLEL_H

#include <stdatomic.h>
#include <stdint.h>

/* Threads that a context with nthreads = 0 gets. */
int ha_default_threads(void);

/* The threads of one call. */
typedef struct ha_team ha_team;

/* Runs work(arg, team) in the calling thread, with up to nthreads - 1 others in the team. One
 * thread, or a child of fork(), opens no parallel region. All threads compute in HA_FPMODE, and
 * their own mode is back when this returns. */
void ha_with_team(int nthreads, void (*work)(void *arg, ha_team *team), void *arg);

/* Runs body(arg, i, thread) for i in [0, n), each i on one of the team's threads, which are
 * numbered from 0. body(i) starts only after all of lower i have started, so that it may wait for
 * what they do. To be called by work(), outside of loops. */
void ha_parallel_for(ha_team *team, int64_t n, void (*body)(void *arg, int64_t i, int thread),
                     void *arg);

/* One loop by a team of its own. */
void ha_parallel(int nthreads, int64_t n, void (*body)(void *arg, int64_t i, int thread),
                 void *arg);

/* Waits until *counter is at least value, which a lower i of the loop makes it. What its thread
 * wrote before is then visible. */
void ha_await(const atomic_int_least64_t *counter, int64_t value);

#endif
