/* SPDX-License-Identifier: Apache-2.0 */
#include "outfile.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "message.h"

bool outfile_is_dash(const char *path)
{
    return path && strcmp(path, "-") == 0;
}

/* ---- which file it is ----------------------------------------------------------------------- */

/* As stat, but "-" is what standard output goes to. */
static bool find_file(const char *path, struct stat *info)
{
    return (outfile_is_dash(path) ? fstat(STDOUT_FILENO, info) : stat(path, info)) == 0;
}

static bool same_inode(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

static const char *last_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* The folder of a file that does not exist yet. */
static bool find_folder(const char *path, struct stat *info)
{
    size_t length = (size_t)(last_name(path) - path);
    char *folder = length ? strndup(path, length) : strdup(".");
    bool found = folder && stat(folder, info) == 0;
    free(folder);
    return found;
}

bool outfile_same(const char *a, const char *b)
{
    struct stat info_a, info_b;
    if (!a || !b)
        return false;
    bool has_a = find_file(a, &info_a), has_b = find_file(b, &info_b);
    if (has_a || has_b)
        return has_a && has_b && same_inode(&info_a, &info_b);
    return strcmp(last_name(a), last_name(b)) == 0 && find_folder(a, &info_a) &&
           find_folder(b, &info_b) && same_inode(&info_a, &info_b);
}

/* ---- opening -------------------------------------------------------------------------------- */

/* A duplicate: /dev/stdout cannot be opened where it is a socket, and opening a regular file anew
 * would start at its beginning. */
static int open_stdout(outfile *out)
{
    fflush(stdout);
    int fd = dup(STDOUT_FILENO);
    out->file = fd < 0 ? NULL : fdopen(fd, "w");
    if (out->file)
        return STATUS_OK;
    int error = errno;
    if (fd >= 0)
        close(fd);
    return failed("%s: %s", out->target, strerror(error));
}

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

/* How a target is written. */
typedef enum way {
    TO_STDOUT,
    DIRECTLY,
    BY_RENAMING
} way;

/* An exit status. */
static int choose_way(way *how, const char *path)
{
    struct stat info, link, standard;
    bool exists = find_file(path, &info);
    if (exists && S_ISDIR(info.st_mode))
        return bad_input("%s: is a directory", path);
    if (!exists && lstat(path, &link) == 0)
        return failed("%s: is a symbolic link to no file", path);
    *how = BY_RENAMING;
    if (exists && !S_ISREG(info.st_mode))
        *how = DIRECTLY;
    if (exists && fstat(STDOUT_FILENO, &standard) == 0 && same_inode(&info, &standard))
        *how = TO_STDOUT;
    return STATUS_OK;
}

int outfile_open(outfile *out, const char *path)
{
    way how;
    *out = (outfile){0};
    int status = choose_way(&how, path);
    if (status)
        return status;
    /* links are followed; what has no path, such as a deleted file, is written as it is */
    if (how == BY_RENAMING && !(out->target = realpath(path, NULL)) && access(path, F_OK) == 0)
        how = DIRECTLY;
    if (!out->target)
        out->target = strdup(outfile_is_dash(path) ? "standard output" : path);
    if (!out->target)
        return failed("%s: out of memory", path);
    status = how == TO_STDOUT ? open_stdout(out)
             : how == DIRECTLY ? open_direct(out)
                               : open_temp(out);
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

/* 0, the errno of what failed, or -1 where that is lost. */
static int finish(outfile *out)
{
    int error = 0;
    if (ferror(out->file))
        error = -1;
    else if (fflush(out->file) || (out->temp && fsync(fileno(out->file))))
        error = errno; /* fsync: the rename must not reach the disk before the data does */
    if (fclose(out->file) && !error)
        error = errno;
    out->file = NULL;
    if (error || !out->temp)
        return error;
    if (rename(out->temp, out->target))
        return errno;
    free(out->temp);
    out->temp = NULL;
    return 0;
}

int outfile_commit(outfile *out)
{
    int error = finish(out);
    int status = STATUS_OK;
    if (error)
        status = failed("%s: writing failed%s%s", out->target, error > 0 ? ": " : "",
                        error > 0 ? strerror(error) : "");
    outfile_discard(out);
    return status;
}

int outfile_probe(const char *path)
{
    way how;
    if (!path)
        return STATUS_OK;
    int status = choose_way(&how, path);
    if (status || how == TO_STDOUT)
        return status;
    if (how == DIRECTLY) /* opening a pipe would wait for its reader */
        return access(path, W_OK) ? failed("%s: %s", path, strerror(errno)) : STATUS_OK;
    outfile out;
    status = outfile_open(&out, path);
    outfile_discard(&out);
    return status;
}
