/* SPDX-License-Identifier: Apache-2.0 */
#include "gnuplot.h"

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

int gnuplot_probe(void)
{
    FILE *null = fopen("/dev/null", "r+e");
    if (!null)
        return failed("/dev/null: %s", strerror(errno));
    pid_t child;
    int status = spawn_gnuplot(&child, "--version", fileno(null), fileno(null));
    fclose(null);
    return status ? status : wait_for(child);
}

/* The script as a file from its beginning; NULL after a message. */
static FILE *make_script(void (*write)(FILE *script, const void *arg), const void *arg)
{
    FILE *script = tmpfile();
    if (!script) {
        failed("gnuplot's script: %s", strerror(errno));
        return NULL;
    }
    write(script, arg);
    if (fflush(script) || ferror(script) || fseek(script, 0, SEEK_SET)) {
        failed("gnuplot's script: writing failed");
        fclose(script);
        return NULL;
    }
    return script;
}

/* All that comes from fd, which is closed. What cannot be written shows when file is committed. */
static void copy_all(int fd, FILE *file)
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
    copy_all(ends[0], svg);
    return wait_for(child);
}

int gnuplot_draw(const char *path, void (*write)(FILE *script, const void *arg), const void *arg)
{
    outfile out;
    int status = outfile_open(&out, path);
    if (status)
        return status;
    FILE *script = make_script(write, arg);
    status = script ? draw(script, out.file) : STATUS_FAILED;
    if (script)
        fclose(script);
    if (status) {
        outfile_discard(&out);
        return status;
    }
    return outfile_commit(&out);
}

void gnuplot_length(char *text, size_t size, double n)
{
    bool whole = fmod(n, 1024) == 0;
    snprintf(text, size, "%.0f%s", whole ? n / 1024 : n, whole ? "k" : "");
}
