/* SPDX-License-Identifier: Apache-2.0 */
#include "timing.h"

#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "message.h"
#include "progress.h"

double timing_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int call(timed_job *job, double *seconds)
{
    double start = timing_now();
    int status = job->run(job->arg, job->calls);
    *seconds = timing_now() - start;
    return status;
}

static void keep(timed_job *job, double seconds)
{
    job->seconds[job->calls++] = seconds;
    job->total += seconds;
}

static int warm_up(timed_job *job, const char *label)
{
    double spent = 0;
    progress("%s: %s, warming up", label, job->name);
    job->calls = 0;
    job->total = 0;
    for (int i = 0; i < TIMING_MAX_CALLS && spent < TIMING_WARM_SECONDS; i++) {
        double seconds;
        int status = call(job, &seconds);
        if (status)
            return status;
        spent += seconds;
        if (i == 0 && seconds >= TIMING_LONG_SECONDS)
            keep(job, seconds);
    }
    return STATUS_OK;
}

static bool has_enough(const timed_job *job, int repeat)
{
    if (job->calls == TIMING_MAX_CALLS || job->total >= TIMING_ENOUGH_SECONDS)
        return true;
    return job->calls >= repeat && job->total >= repeat * TIMING_REPEAT_SECONDS;
}

static int measure(timed_job *job, int repeat, const char *label)
{
    double seconds;
    /* not between short calls, which it would disturb */
    if (job->calls < repeat)
        progress("%s: %s, run %d of %d", label, job->name, job->calls + 1, repeat);
    int status = call(job, &seconds);
    if (status == STATUS_OK)
        keep(job, seconds);
    return status;
}

static int by_time(const void *a, const void *b)
{
    double x = **(const double *const *)a, y = **(const double *const *)b;
    return (x > y) - (x < y);
}

static void find_median(timed_job *job)
{
    const double *order[TIMING_MAX_CALLS];
    for (int i = 0; i < job->calls; i++)
        order[i] = &job->seconds[i];
    qsort(order, (size_t)job->calls, sizeof order[0], by_time);
    job->median_call = (int)(order[(job->calls - 1) / 2] - job->seconds);
    job->median = job->seconds[job->median_call];
}

/* One turn of all jobs that have not enough; *over: there is none. */
static int take_turn(timed_job *jobs, int count, int repeat, const char *label, bool *over)
{
    int status = STATUS_OK;
    *over = true;
    for (int j = 0; j < count && status == STATUS_OK; j++) {
        if (!jobs[j].run || has_enough(&jobs[j], repeat))
            continue;
        *over = false;
        status = measure(&jobs[j], repeat, label);
    }
    return status;
}

int timing_run(timed_job *jobs, int count, int repeat, const char *label)
{
    int status = STATUS_OK;
    bool over = false;
    for (int j = 0; j < count && status == STATUS_OK; j++)
        if (jobs[j].run)
            status = warm_up(&jobs[j], label);
    while (status == STATUS_OK && !over)
        status = take_turn(jobs, count, repeat, label, &over);
    for (int j = 0; j < count && status == STATUS_OK; j++)
        if (jobs[j].run)
            find_median(&jobs[j]);
    progress_clear();
    return status;
}
