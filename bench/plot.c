/* SPDX-License-Identifier: Apache-2.0 */
#include "plot.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <spawn.h>
#include <stdbool.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "message.h"
#include "outfile.h"

extern char **environ;

static int wait_for(pid_t child)
{
    int state;
    while (waitpid(child, &state, 0) < 0) {
        if (errno != EINTR)
            return failed("gnuplot: %s", strerror(errno));
    }
    if (!WIFEXITED(state) || WEXITSTATUS(state) != 0)
        return failed("gnuplot failed");
    return STATUS_OK;
}

/* Runs gnuplot with standard input and output on the two descriptors. */
static int spawn_gnuplot(pid_t *child, const char *option, int in, int out)
{
    char name[] = "gnuplot", argument[16];
    char *argv[] = {name, option ? argument : NULL, NULL};
    snprintf(argument, sizeof argument, "%s", option ? option : "");
    posix_spawn_file_actions_t actions;
    int error = posix_spawn_file_actions_init(&actions);
    if (error)
        return failed("gnuplot: %s", strerror(error));
    posix_spawn_file_actions_adddup2(&actions, in, STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
    error = posix_spawnp(child, name, &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (error == ENOENT)
        return failed("--plot needs gnuplot, and there is none in PATH");
    return error ? failed("gnuplot: %s", strerror(error)) : STATUS_OK;
}

int plot_probe(void)
{
    FILE *null = fopen("/dev/null", "r+e");
    if (!null)
        return failed("/dev/null: %s", strerror(errno));
    pid_t child;
    int status = spawn_gnuplot(&child, "--version", fileno(null), fileno(null));
    fclose(null);
    return status ? status : wait_for(child);
}

/* One data block: n, value, point type (hollow where exact was timed on one head). Returns the
 * number of points. */
static int write_block(FILE *script, const char *name, const report *r, const char *key,
                       bool causal)
{
    int points = 0;
    fprintf(script, "$%s << END\n", name);
    for (int row = 0; row < report_rows(r); row++) {
        double value = report_value(r, row, key);
        if ((report_value(r, row, "causal") != 0) != causal || !(value > 0) || isinf(value))
            continue;
        bool scaled = report_value(r, row, "scaled") == 1 && strncmp(key, "hyper", 5) != 0;
        fprintf(script, "%.0f %.9g %d\n", report_value(r, row, "n"), value, scaled ? 6 : 7);
        points++;
    }
    fprintf(script, "END\n");
    return points;
}

typedef struct curve {
    const char *name, *key, *title, *style;
    bool causal;
} curve;

static void write_panel(FILE *script, const report *r, const curve *curves, int count)
{
    bool has_points[8];
    int any = 0;
    for (int c = 0; c < count; c++) {
        has_points[c] = write_block(script, curves[c].name, r, curves[c].key, curves[c].causal) > 0;
        any |= has_points[c];
    }
    if (!any) {
        fprintf(script, "set multiplot next\n");
        return;
    }
    const char *separator = "plot";
    for (int c = 0; c < count; c++) {
        if (!has_points[c])
            continue;
        fprintf(script, "%s $%s using 1:2:3 with linespoints pt variable ps 0.9 lw 2 %s title '%s'",
                separator, curves[c].name, curves[c].style, curves[c].title);
        separator = ",";
    }
    fprintf(script, "\n");
}

/* The axis of n, with a tic at each length: in units of 1024 where that is a whole number. */
static void write_n_axis(FILE *script, const report *r)
{
    double first = INFINITY, last = 0;
    const char *separator = "set xtics (";
    for (int row = 0; row < report_rows(r); row++) {
        double n = report_value(r, row, "n");
        bool whole = fmod(n, 1024) == 0;
        fprintf(script, "%s'%.0f%s' %.0f", separator, whole ? n / 1024 : n, whole ? "k" : "", n);
        separator = ", ";
        first = fmin(first, n);
        last = fmax(last, n);
    }
    fprintf(script, ")\nset xrange [%.0f:%.0f]\n", floor(first / 1.25), ceil(last * 1.25));
}

static void write_script(FILE *script, const report *r, bool backward, const char *title)
{
    const char *exact = backward ? "exact_both_seconds" : "exact_seconds";
    const char *hyper = backward ? "hyper_both_seconds" : "hyper_seconds";
    const char *speedup = backward ? "both_speedup" : "speedup";
    const curve times[] = {
        {"a", exact, "exact", "lc rgb '#666666'", false},
        {"b", hyper, "HyperAttention", "lc rgb '#0060ad'", false},
        {"c", exact, "exact, causal", "lc rgb '#666666' dt 2", true},
        {"d", hyper, "HyperAttention, causal", "lc rgb '#0060ad' dt 2", true},
    };
    const curve speedups[] = {
        {"e", speedup, "not causal", "lc rgb '#0060ad'", false},
        {"f", speedup, "causal", "lc rgb '#0060ad' dt 2", true},
    };
    fprintf(script,
            "set terminal svg size 1000,460 dynamic background rgb 'white' font 'sans,13'\n"
            "set encoding utf8\n"
            "set multiplot layout 1,2 title \"%s\" noenhanced\n"
            "set logscale xy\n"
            "set grid\n"
            "set key left top reverse Left\n"
            "set xlabel 'sequence length n'\n"
            "set ylabel 'seconds'\n",
            title);
    write_n_axis(script, r);
    write_panel(script, r, times, 4);
    fprintf(script, "set ylabel 'times faster than exact'\nset format y '%%g'\n");
    write_panel(script, r, speedups, 2);
    fprintf(script, "unset multiplot\n");
}

/* The script as a file from its beginning; NULL after a message. */
static FILE *make_script(const report *r, bool backward, const char *title)
{
    FILE *script = tmpfile();
    if (!script) {
        failed("gnuplot's script: %s", strerror(errno));
        return NULL;
    }
    write_script(script, r, backward, title);
    if (fflush(script) || ferror(script) || fseek(script, 0, SEEK_SET)) {
        failed("gnuplot's script: writing failed");
        fclose(script);
        return NULL;
    }
    return script;
}

/* All that comes from fd, which is closed. What cannot be written shows when file is committed. */
static void copy(int fd, FILE *file)
{
    char buffer[4096];
    ssize_t got;
    while ((got = read(fd, buffer, sizeof buffer)) > 0 || (got < 0 && errno == EINTR))
        if (got > 0)
            fwrite(buffer, 1, (size_t)got, file);
    close(fd);
}

/* What gnuplot draws passes through us, since it does not report what it could not write. */
static int draw(FILE *script, FILE *svg)
{
    int ends[2];
    pid_t child;
    if (pipe(ends) < 0)
        return failed("gnuplot: %s", strerror(errno));
    /* a copy of its end in the child would do no harm, one of ours would keep it writing */
    fcntl(ends[0], F_SETFD, FD_CLOEXEC);
    int status = spawn_gnuplot(&child, NULL, fileno(script), ends[1]);
    close(ends[1]);
    if (status) {
        close(ends[0]);
        return status;
    }
    copy(ends[0], svg);
    return wait_for(child);
}

int plot_sweep(const report *r, bool backward, const char *title, const char *path)
{
    outfile out;
    int status = outfile_open(&out, path);
    if (status)
        return status;
    FILE *script = make_script(r, backward, title);
    status = script ? draw(script, out.file) : STATUS_FAILED;
    if (script)
        fclose(script);
    if (status) {
        outfile_discard(&out);
        return status;
    }
    return outfile_commit(&out);
}
