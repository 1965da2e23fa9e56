/* SPDX-License-Identifier: Apache-2.0 */
#include "parallel.h"

#include <sched.h>

#ifdef _OPENMP
#include <omp.h>
#include <pthread.h>

/* libgomp's threads do not exist in a forked child, and a parallel region there would wait for
 * them for ever. */
static volatile int forked;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void in_child(void)
{
    forked = 1;
}

static void watch_fork(void)
{
    pthread_atfork(NULL, NULL, in_child);
}

int ha_default_threads(void)
{
    pthread_once(&once, watch_fork);
    return omp_get_max_threads();
}

int ha_in_parallel(void)
{
    return omp_in_parallel();
}
#else
int ha_in_parallel(void)
{
    return 0;
}

int ha_default_threads(void)
{
    return 1;
}
#endif

void ha_parallel_for(int nthreads, int64_t n, void (*body)(void *arg, int64_t i, int thread),
                     void *arg)
{
#ifdef _OPENMP
    pthread_once(&once, watch_fork);
    if (nthreads > 1 && n > 1 && !forked) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(nthreads)
        for (int64_t i = 0; i < n; i++)
            body(arg, i, omp_get_thread_num());
        return;
    }
#endif
    (void)nthreads;
    for (int64_t i = 0; i < n; i++)
        body(arg, i, 0);
}

typedef struct ordered {
    atomic_int_least64_t next;
    int64_t n;
    void (*body)(void *arg, int64_t i, int thread);
    void *arg;
} ordered;

/* Takes one i after the other. OpenMP's own schedules do not promise an order between threads. */
static void take_in_order(void *arg, int64_t worker, int thread)
{
    ordered *o = arg;
    (void)worker;
    for (int64_t i; (i = atomic_fetch_add_explicit(&o->next, 1, memory_order_relaxed)) < o->n;)
        o->body(o->arg, i, thread);
}

void ha_parallel_ordered(int nthreads, int64_t n, void (*body)(void *arg, int64_t i, int thread),
                         void *arg)
{
    ordered o = {.n = n, .body = body, .arg = arg};
    ha_parallel_for(nthreads, nthreads < n ? nthreads : n, take_in_order, &o);
}

void ha_await(const atomic_int_least64_t *counter, int64_t value)
{
    for (int spins = 0; atomic_load_explicit(counter, memory_order_acquire) < value; spins++)
        if (spins >= 1000)
            sched_yield();
}
