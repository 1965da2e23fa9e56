/* SPDX-License-Identifier: Apache-2.0
 *
 * Wall-clock times of things that are compared: warmed up, repeated in turn, the median taken.
 */
#ifndef BENCH_TIMING_H
#define BENCH_TIMING_H

enum {
    TIMING_MAX_REPEAT = 99
};

/* A call at least this long needs no warm-up: its first call counts. */
#define TIMING_LONG_SECONDS 1.0
/* Repeats of a job end when its measured calls have taken this long together. */
#define TIMING_ENOUGH_SECONDS 30.0

typedef struct timed_job {
    const char *name; /* for the progress line */
    int (*run)(void *arg); /* returns an exit status */
    void *arg;
    /* results */
    int calls;                             /* with the warm-up */
    int first;                             /* call that was measured first: 0 or 1 */
    double seconds[TIMING_MAX_REPEAT + 1]; /* of each call */
    int median_call;                       /* the one whose time is the (lower) median */
    double median;
} timed_job;

/* Seconds of a steady clock. */
double timing_now(void);

/* Runs every job repeat times, in turn, after one warm-up each; label names the problem on the
 * progress line. Returns an exit status. */
int timing_run(timed_job *jobs, int count, int repeat, const char *label);

#endif
