/* SPDX-License-Identifier: Apache-2.0
 *
 * The team of threads of a call: every item of every loop once, started in order so that an item
 * may wait for a lower one, one loop after the other, with more threads than processors and inside
 * a parallel region of the caller's. And the floating-point mode: all threads compute in the
 * library's, and have their own again afterwards.
 */
#include <fenv.h>
#include <time.h>

#include "checkmain.h"
#include "fpmode.h"
#include "parallel.h"

#ifdef _OPENMP
#include <omp.h>
#endif

static const int team_sizes[] = {1, 2, 3, 5, 17};

enum { MOST_THREADS = 17, MOST_ITEMS = 1000 };

/* ---- items ----------------------------------------------------------------------------------- */

typedef struct tally {
    atomic_int times[MOST_ITEMS]; /* that an item ran */
    atomic_int bad_thread;
    int nthreads;
} tally;

static void count_item(void *arg, int64_t i, int thread)
{
    tally *t = arg;
    if (thread < 0 || thread >= t->nthreads)
        atomic_fetch_add(&t->bad_thread, 1);
    atomic_fetch_add(&t->times[i], 1);
}

static const char *check_tally(tally *t, int64_t n)
{
    for (int64_t i = 0; i < MOST_ITEMS; i++) {
        int times = atomic_exchange(&t->times[i], 0);
        if (times != (i < n))
            return failure("item %lld of %lld ran %d times", (long long)i, (long long)n, times);
    }
    return atomic_load(&t->bad_thread) ? "a thread had no number of the team" : NULL;
}

START_TEST(every_item_runs_once)
{
    static const int64_t lengths[] = {0, 1, 2, 3, 16, 17, 18, MOST_ITEMS};
    tally t = {.nthreads = team_sizes[_i]};
    for (int s = 0; s < COUNT(lengths); s++)
        for (int repeat = 0; repeat < 20; repeat++) {
            ha_parallel(team_sizes[_i], lengths[s], count_item, &t);
            ck_good_at(check_tally(&t, lengths[s]), "%d threads", team_sizes[_i]);
        }
}
END_TEST

/* ---- loops after each other ------------------------------------------------------------------ */

typedef struct loops {
    tally t;
    int rounds;
    const char *why;
} loops;

/* A helper's item takes its time now and then, so that it is the last to end. */
static void count_slowly(void *arg, int64_t i, int thread)
{
    const struct timespec nap = {.tv_nsec = 20000};
    if (thread > 0 && i % 16 == 0)
        nanosleep(&nap, NULL);
    count_item(arg, i, thread);
}

/* The lengths change, for each loop lies where the one before the last one lay. All of a loop is
 * done, and nothing of it runs on, when ha_parallel_for returns. */
static void many_loops(void *arg, ha_team *team)
{
    static const int64_t lengths[] = {7, 0, 1, 500, 2, 2, 0, 0, 40, 1, 3};
    loops *l = arg;
    for (int round = 0; round < l->rounds && !l->why; round++) {
        int64_t n = lengths[round % COUNT(lengths)];
        ha_parallel_for(team, n, count_slowly, &l->t);
        const char *why = check_tally(&l->t, n);
        l->why = why ? failure("loop %d: %s", round, why) : NULL;
    }
}

START_TEST(loops_follow_each_other)
{
    loops l = {.t.nthreads = team_sizes[_i], .rounds = emulated() ? 110 : 2200};
    ha_with_team(team_sizes[_i], many_loops, &l);
    ck_good_at(l.why, "%d threads", team_sizes[_i]);
}
END_TEST

/* ---- order ----------------------------------------------------------------------------------- */

/* Item i waits for i - 1: with items in another order all threads would wait for ever. What an
 * item wrote is visible to the one that waited for it. */
typedef struct chain {
    atomic_int_least64_t done;
    uint64_t plain; /* written by one item after the other */
} chain;

static void wait_for_lower(void *arg, int64_t i, int thread)
{
    chain *c = arg;
    (void)thread;
    ha_await(&c->done, i);
    c->plain = c->plain * 3 + (uint64_t)i;
    atomic_store_explicit(&c->done, i + 1, memory_order_release);
}

START_TEST(items_may_wait_for_lower_ones)
{
    for (int64_t n = 0; n < 300; n += 23) {
        chain c = {.plain = 0};
        uint64_t want = 0;
        for (int64_t i = 0; i < n; i++)
            want = want * 3 + (uint64_t)i;
        ha_parallel(team_sizes[_i], n, wait_for_lower, &c);
        ck_assert_int_eq(atomic_load(&c.done), n);
        ck_assert_uint_eq(c.plain, want);
    }
}
END_TEST

/* ---- many empty items ------------------------------------------------------------------------ */

typedef struct per_thread {
    int64_t items;
    int64_t last; /* item, or -1 */
    int64_t backward;
    char apart[104];
} per_thread;

static void empty_item(void *arg, int64_t i, int thread)
{
    per_thread *mine = (per_thread *)arg + thread;
    mine->items++;
    mine->backward += i <= mine->last;
    mine->last = i;
}

START_TEST(a_huge_number_of_empty_items)
{
    int64_t n = emulated() ? 100000 : 3000000, all = 0;
    per_thread t[MOST_THREADS] = {{0}};
    for (int i = 0; i < MOST_THREADS; i++)
        t[i].last = -1;
    ha_parallel(team_sizes[_i], n, empty_item, t);
    for (int i = 0; i < MOST_THREADS; i++) {
        all += t[i].items;
        ck_assert_msg(t[i].backward == 0, "thread %d went back", i);
    }
    ck_assert_int_eq(all, n);
}
END_TEST

/* ---- inside a parallel region of the caller's ------------------------------------------------ */

START_TEST(teams_work_inside_a_parallel_region)
{
    int failed = 0;
#pragma omp parallel num_threads(3) reduction(+ : failed)
    {
        loops l = {.t.nthreads = team_sizes[_i], .rounds = emulated() ? 22 : 220};
        ha_with_team(team_sizes[_i], many_loops, &l);
        failed += l.why != NULL;
    }
    ck_assert_int_eq(failed, 0);
}
END_TEST

/* ---- floating-point mode --------------------------------------------------------------------- */

/* The bits that this file's modes differ in; exception flags come and go. */
#if defined(__SSE__)
#define MODE_BITS UINT64_C(0xffc0)
#else
#define MODE_BITS UINT64_C(0x1c00000)
#endif

static uint64_t mode_now(void)
{
    return ha_fpmode_get() & MODE_BITS;
}

static void note_mode(void *arg, int64_t i, int thread)
{
    (void)i;
    (void)thread;
    if (mode_now() != (HA_FPMODE & MODE_BITS))
        atomic_fetch_add((atomic_int *)arg, 1);
}

static void set_mode(int rounding, int flushes)
{
    if (flushes)
        ha_fpmode_set(HA_FPMODE);
    fesetround(rounding);
}

/* In the ones that OpenMP keeps for its next region, and the calling thread: clang's OpenMP gives
 * it back its own mode at the end of a region, and hands that to the others at the next. */
static void set_modes(int nthreads, int rounding, int flushes)
{
    (void)nthreads;
#pragma omp parallel num_threads(nthreads)
    set_mode(rounding, flushes);
    set_mode(rounding, flushes);
}

static int modes_like(int nthreads, uint64_t mode, int rounding)
{
    int like = 0;
    (void)nthreads;
#pragma omp parallel num_threads(nthreads) reduction(+ : like)
    like += mode_now() == mode && fegetround() == rounding;
    return like;
}

START_TEST(the_mode_is_the_library_s_and_then_the_caller_s_again)
{
    static const int roundings[] = {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
    int nthreads = team_sizes[_i];
#ifdef _OPENMP
    omp_set_dynamic(0);
#else
    nthreads = 1;
#endif
    for (int s = 0; s < COUNT(roundings); s++)
        for (int flushes = 0; flushes < 2; flushes++) {
            atomic_int others = 0;
            set_modes(nthreads, roundings[s], flushes);
            uint64_t mode = mode_now();
            ha_parallel(team_sizes[_i], 200, note_mode, &others);
            ck_assert_msg(atomic_load(&others) == 0, "%d items ran in another mode",
                          atomic_load(&others));
            ck_assert_int_eq(modes_like(nthreads, mode, roundings[s]), nthreads);
            set_modes(nthreads, FE_TONEAREST, 0);
        }
}
END_TEST

int main(void)
{
    if (emulated())
        puts("reduced: 1 of 30 empty items, 1 of 20 loops");
    TCase *topic = topic_begin("team");
    tcase_add_loop_test(topic, every_item_runs_once, 0, COUNT(team_sizes));
    tcase_add_loop_test(topic, loops_follow_each_other, 0, COUNT(team_sizes));
    tcase_add_loop_test(topic, items_may_wait_for_lower_ones, 0, COUNT(team_sizes));
    tcase_add_loop_test(topic, a_huge_number_of_empty_items, 0, COUNT(team_sizes));
    tcase_add_loop_test(topic, teams_work_inside_a_parallel_region, 0, COUNT(team_sizes));
    tcase_add_loop_test(topic, the_mode_is_the_library_s_and_then_the_caller_s_again, 0,
                        COUNT(team_sizes));
    return topic_end();
}
