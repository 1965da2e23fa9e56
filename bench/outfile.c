/* SPDX-License-Identifier: Apache-2.0 */
#include "outfile.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "message.h"

static int open_direct(outfile *out)
{
    out->file = fopen(out->target, "we");
    if (!out->file)
        return failed("%s: %s", out->target, strerror(errno));
    return STATUS_OK;
}

static int open_temp(outfile *out)
{
    static const char suffix[] = ".XXXXXX";
    size_t length = strlen(out->target);
    out->temp = malloc(length + sizeof suffix);
    if (!out->temp)
        return failed("%s: out of memory", out->target);
    memcpy(out->temp, out->target, length);
    memcpy(out->temp + length, suffix, sizeof suffix);
    int fd = mkstemp(out->temp);
    if (fd < 0) {
        free(out->temp);
        out->temp = NULL;
        return failed("%s: cannot create a file beside it: %s", out->target, strerror(errno));
    }
    mode_t mask = umask(0);
    umask(mask);
    /* mkstemp's 0600 is for secrets; an output has the mode that any other program gives it */
    if (fchmod(fd, 0666 & ~mask) == 0)
        out->file = fdopen(fd, "w");
    if (!out->file) {
        int error = errno;
        close(fd);
        return failed("%s: %s", out->target, strerror(error));
    }
    return STATUS_OK;
}

int outfile_open(outfile *out, const char *path)
{
    *out = (outfile){0};
    struct stat info;
    int exists = stat(path, &info) == 0;
    if (exists && S_ISDIR(info.st_mode))
        return bad_input("%s: is a directory", path);
    out->target = exists ? realpath(path, NULL) : strdup(path);
    if (!out->target)
        return failed("%s: %s", path, strerror(errno));
    int status = exists && !S_ISREG(info.st_mode) ? open_direct(out) : open_temp(out);
    if (status)
        outfile_discard(out);
    return status;
}

void outfile_discard(outfile *out)
{
    if (out->file)
        fclose(out->file);
    if (out->temp)
        unlink(out->temp);
    free(out->temp);
    free(out->target);
    *out = (outfile){0};
}

int outfile_commit(outfile *out)
{
    int bad = ferror(out->file) || fflush(out->file);
    /* the rename must not reach the disk before the data does */
    if (!bad && out->temp)
        bad = fsync(fileno(out->file)) != 0;
    if (fclose(out->file))
        bad = 1;
    out->file = NULL;
    if (!bad && out->temp) {
        bad = rename(out->temp, out->target) != 0;
        if (!bad) {
            free(out->temp);
            out->temp = NULL;
        }
    }
    int status = bad ? failed("%s: writing failed: %s", out->target, strerror(errno)) : STATUS_OK;
    outfile_discard(out);
    return status;
}

int outfile_probe(const char *path)
{
    if (!path)
        return STATUS_OK;
    struct stat info;
    if (stat(path, &info) == 0 && !S_ISDIR(info.st_mode) && !S_ISREG(info.st_mode))
        return STATUS_OK; /* opening a pipe would wait for its reader */
    outfile out;
    int status = outfile_open(&out, path);
    outfile_discard(&out);
    return status;
}
