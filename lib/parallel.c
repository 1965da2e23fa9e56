/* SPDX-License-Identifier: Apache-2.0 */
#include "parallel.h"

#include <pthread.h>
#include <sched.h>
#include <time.h>

#include "fpmode.h"

#ifdef _OPENMP
#include <omp.h>
#endif

/* A thread that waits looks for this long before it sleeps: longer than most gaps between two
 * loops, shorter than what a sleep costs somebody else by much. */
#define LOOK_NANOSECONDS 50000

/* A ticket is a loop's number and its next item. */
#define ITEM_BITS 40

typedef struct loop {
    atomic_int_least64_t n;
    void (*body)(void *arg, int64_t i, int thread);
    void *arg;
} loop;

/* The current loop is loops[number % 2]. A loop's place is written again two loops later, when all
 * items of the one between are done too: who holds an item can rely on its loop. */
struct ha_team {
    int helpers;
    atomic_uint_least64_t ticket;
    loop loops[2];
    atomic_int_least64_t done; /* items of the current loop */
    atomic_int over;           /* no more loops */
    atomic_int left;           /* helpers that know it */
    pthread_mutex_t mutex;     /* for sleeping: */
    pthread_cond_t posted, finished;
    atomic_int sleepers, owner_sleeps;
};

static uint64_t number_of(uint64_t ticket)
{
    return ticket >> ITEM_BITS;
}

static int64_t nanoseconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Looks for a while whether holds(team, value) comes true. */
static int look(ha_team *team, int (*holds)(ha_team *team, uint64_t value), uint64_t value)
{
    int64_t end = 0;
    for (int spins = 1; !holds(team, value); spins++)
        if (spins % 64 == 0) {
            int64_t now = nanoseconds();
            end = end ? end : now + LOOK_NANOSECONDS;
            if (now > end)
                return 0;
        }
    return 1;
}

static int is_posted(ha_team *team, uint64_t last)
{
    return number_of(atomic_load(&team->ticket)) != last || atomic_load(&team->over);
}

static int is_finished(ha_team *team, uint64_t n)
{
    return (uint64_t)atomic_load(&team->done) == n;
}

static int have_left(ha_team *team, uint64_t helpers)
{
    return (uint64_t)atomic_load(&team->left) == helpers;
}

static void wake_owner(ha_team *team)
{
    if (!atomic_load(&team->owner_sleeps))
        return;
    pthread_mutex_lock(&team->mutex);
    pthread_cond_signal(&team->finished);
    pthread_mutex_unlock(&team->mutex);
}

/* Does the items of the current loop that nobody else does; returns its number. */
static uint64_t help(ha_team *team, int thread)
{
    for (;;) {
        uint64_t ticket = atomic_fetch_add(&team->ticket, 1), number = number_of(ticket);
        int64_t item = (int64_t)(ticket & (((uint64_t)1 << ITEM_BITS) - 1));
        loop *l = &team->loops[number % 2];
        int64_t n = atomic_load(&l->n);
        /* If the next loop has begun, this one had no item left, and n may be another's. */
        if (number_of(atomic_load(&team->ticket)) != number || item >= n)
            return number;
        l->body(l->arg, item, thread);
        if (atomic_fetch_add(&team->done, 1) + 1 == n)
            wake_owner(team);
    }
}

static void wait_for_loop(ha_team *team, uint64_t last)
{
    if (look(team, is_posted, last))
        return;
    pthread_mutex_lock(&team->mutex);
    atomic_fetch_add(&team->sleepers, 1);
    while (!is_posted(team, last))
        pthread_cond_wait(&team->posted, &team->mutex);
    atomic_fetch_sub(&team->sleepers, 1);
    pthread_mutex_unlock(&team->mutex);
}

/* The owner waits for its helpers. */
static void wait_until(ha_team *team, int (*holds)(ha_team *team, uint64_t value), uint64_t value)
{
    if (look(team, holds, value))
        return;
    pthread_mutex_lock(&team->mutex);
    atomic_store(&team->owner_sleeps, 1);
    while (!holds(team, value))
        pthread_cond_wait(&team->finished, &team->mutex);
    atomic_store(&team->owner_sleeps, 0);
    pthread_mutex_unlock(&team->mutex);
}

static void wake_helpers(ha_team *team)
{
    if (!atomic_load(&team->sleepers))
        return;
    pthread_mutex_lock(&team->mutex);
    pthread_cond_broadcast(&team->posted);
    pthread_mutex_unlock(&team->mutex);
}

void ha_parallel_for(ha_team *team, int64_t n, void (*body)(void *arg, int64_t i, int thread),
                     void *arg)
{
    if (!team->helpers || n <= 1) {
        for (int64_t i = 0; i < n; i++)
            body(arg, i, 0);
        return;
    }
    uint64_t number = number_of(atomic_load(&team->ticket)) + 1;
    loop *l = &team->loops[number % 2];
    atomic_store(&l->n, n);
    l->body = body;
    l->arg = arg;
    atomic_store(&team->done, 0);
    atomic_store(&team->ticket, number << ITEM_BITS);
    wake_helpers(team);
    help(team, 0);
    wait_until(team, is_finished, (uint64_t)n);
}

static void serve(ha_team *team, int thread)
{
    for (uint64_t last = 0; !atomic_load(&team->over);) {
        wait_for_loop(team, last);
        last = help(team, thread);
    }
    atomic_fetch_add(&team->left, 1);
    wake_owner(team);
}

/* Thread 0 does the work, the others serve it. At the end it waits for them before OpenMP's barrier
 * does, which would keep its processor busy: that may be the one that a helper needs to get
 * here. */
static void join(ha_team *team, int thread, int threads, void (*work)(void *arg, ha_team *team),
                 void *arg)
{
    uint64_t mode = ha_fpmode_get();
    ha_fpmode_set(HA_FPMODE);
    if (thread > 0)
        serve(team, thread);
    else {
        team->helpers = threads - 1;
        work(arg, team);
        atomic_store(&team->over, 1);
        wake_helpers(team);
        wait_until(team, have_left, (uint64_t)team->helpers);
    }
    ha_fpmode_set(mode);
}

#ifdef _OPENMP

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

static void open_region(ha_team *team, int nthreads, void (*work)(void *arg, ha_team *team),
                        void *arg)
{
    pthread_mutex_init(&team->mutex, NULL);
    pthread_cond_init(&team->posted, NULL);
    pthread_cond_init(&team->finished, NULL);
#pragma omp parallel num_threads(nthreads)
    join(team, omp_get_thread_num(), omp_get_num_threads(), work, arg);
    pthread_cond_destroy(&team->finished);
    pthread_cond_destroy(&team->posted);
    pthread_mutex_destroy(&team->mutex);
}

static int may_open_region(int nthreads)
{
    pthread_once(&once, watch_fork);
    return nthreads > 1 && !forked;
}

#else

int ha_default_threads(void)
{
    return 1;
}

static int may_open_region(int nthreads)
{
    (void)nthreads;
    return 0;
}

static void open_region(ha_team *team, int nthreads, void (*work)(void *arg, ha_team *team),
                        void *arg)
{
    (void)nthreads;
    join(team, 0, 1, work, arg);
}

#endif

void ha_with_team(int nthreads, void (*work)(void *arg, ha_team *team), void *arg)
{
    ha_team team = {.helpers = 0};
    if (may_open_region(nthreads))
        open_region(&team, nthreads, work, arg);
    else
        join(&team, 0, 1, work, arg);
}

typedef struct single {
    int64_t n;
    void (*body)(void *arg, int64_t i, int thread);
    void *arg;
} single;

static void run_single(void *arg, ha_team *team)
{
    const single *s = arg;
    ha_parallel_for(team, s->n, s->body, s->arg);
}

void ha_parallel(int nthreads, int64_t n, void (*body)(void *arg, int64_t i, int thread),
                 void *arg)
{
    single s = {n, body, arg};
    ha_with_team(nthreads, run_single, &s);
}

void ha_await(const atomic_int_least64_t *counter, int64_t value)
{
    const struct timespec nap = {.tv_nsec = 20000};
    for (int spins = 0; atomic_load_explicit(counter, memory_order_acquire) < value; spins++)
        if (spins >= 6000)
            nanosleep(&nap, NULL);
        else if (spins >= 1000)
            sched_yield();
}
