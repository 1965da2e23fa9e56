/* SPDX-License-Identifier: Apache-2.0 */
#include "timing.h"

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

static int call(timed_job *job)
{
    double start = timing_now();
    int status = job->run(job->arg);
    job->seconds[job->calls++] = timing_now() - start;
    return status;
}

static int warm_up(timed_job *job, const char *label)
{
    progress("%s: %s, warming up", label, job->name);
    job->calls = 0;
    int status = call(job);
    job->first = job->seconds[0] >= TIMING_LONG_SECONDS ? 0 : 1;
    return status;
}

static int measured(const timed_job *job)
{
    return job->calls - job->first;
}

static int has_enough(const timed_job *job, int repeat)
{
    double sum = 0;
    for (int i = job->first; i < job->calls; i++)
        sum += job->seconds[i];
    return measured(job) >= repeat || sum >= TIMING_ENOUGH_SECONDS;
}

static int by_time(const void *a, const void *b)
{
    double x = **(const double *const *)a, y = **(const double *const *)b;
    return (x > y) - (x < y);
}

static void find_median(timed_job *job)
{
    const double *order[TIMING_MAX_REPEAT + 1];
    int n = measured(job);
    for (int i = 0; i < n; i++)
        order[i] = &job->seconds[job->first + i];
    qsort(order, (size_t)n, sizeof order[0], by_time);
    job->median_call = (int)(order[(n - 1) / 2] - job->seconds);
    job->median = job->seconds[job->median_call];
}

int timing_run(timed_job *jobs, int count, int repeat, const char *label)
{
    int status = STATUS_OK;
    for (int j = 0; j < count && status == STATUS_OK; j++)
        status = warm_up(&jobs[j], label);
    for (int r = 0; r < repeat; r++) {
        for (int j = 0; j < count && status == STATUS_OK; j++) {
            if (has_enough(&jobs[j], repeat))
                continue;
            progress("%s: %s, run %d of %d", label, jobs[j].name, measured(&jobs[j]) + 1, repeat);
            status = call(&jobs[j]);
        }
    }
    for (int j = 0; j < count && status == STATUS_OK; j++)
        find_median(&jobs[j]);
    progress_clear();
    return status;
}
