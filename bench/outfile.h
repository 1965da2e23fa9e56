/* SPDX-License-Identifier: Apache-2.0
 *
 * Output files that appear complete or not at all: written to a temporary file beside the target
 * and renamed. A target that exists and is no regular file (a device, a pipe) is written directly.
 */
#ifndef BENCH_OUTFILE_H
#define BENCH_OUTFILE_H

#include <stdio.h>

typedef struct outfile {
    FILE *file;
    char *target; /* symbolic links followed */
    char *temp;   /* NULL: written directly */
} outfile;

/* Each returns an exit status, after a message that names the path. */
int outfile_open(outfile *out, const char *path);
int outfile_commit(outfile *out); /* discards on failure */

/* Forgets what was written; nothing happens after a commit. */
void outfile_discard(outfile *out);

/* Finds out early whether path can be written. NULL is fine. */
int outfile_probe(const char *path);

#endif
