/* SPDX-License-Identifier: Apache-2.0
 *
 * Wall-clock times of things that are compared: warmed up, repeated in turn, the median taken. Long
 * calls are few, short ones many: what a call of microseconds takes shows in hundreds of them only.
 */
#ifndef BENCH_TIMING_H
#define BENCH_TIMING_H

enum {
    TIMING_MAX_REPEAT = 99, /* that can be asked for */
    TIMING_MAX_CALLS = 1000 /* measured of one job */
};

/* A call at least this long needs no warm-up: its first call counts. */
#define TIMING_LONG_SECONDS 1.0
/* Warm-up calls go on for this long together. */
#define TIMING_WARM_SECONDS 0.05
/* A repeat is one call, or as many as take this long together. */
#define TIMING_REPEAT_SECONDS 0.03
/* Repeats of a job end when its measured calls have taken this long together. */
#define TIMING_ENOUGH_SECONDS 30.0

/* For the help of commands. */
#define TIMING_DOC                                                                              \
    "Each method is warmed up for 0.05 s; then all are run in turn, until each has had as many " \
    "runs as --repeat says and as take 0.03 s times that together, or 1000. A first run of 1 s " \
    "or more counts as the first measurement, and a method's runs end when they have taken 30 "  \
    "s together."

typedef struct timed_job {
    const char *name; /* for the progress line */
    /* Returns an exit status; NULL: no such job. call numbers the measured calls from 0 on;
     * warm-ups come before and have the number 0 too. */
    int (*run)(void *arg, int call);
    void *arg;
    /* results */
    int calls; /* measured */
    double seconds[TIMING_MAX_CALLS];
    double total;    /* of those */
    int median_call; /* the one whose time is the (lower) median */
    double median;
} timed_job;

/* Seconds of a steady clock. */
double timing_now(void);

/* Warms up every job, then runs each for that many repeats, in turn; label names the problem on the
 * progress line. Returns an exit status. */
int timing_run(timed_job *jobs, int count, int repeat, const char *label);

#endif
