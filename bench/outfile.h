/* SPDX-License-Identifier: Apache-2.0
 *
 * Output files that appear complete or not at all: written to a temporary file beside the target
 * and renamed. What is no regular file (a pipe, a device), and the file that standard output goes
 * to, by the name "-" or by its own, is written as it comes: nothing need be seekable.
 */
#ifndef BENCH_OUTFILE_H
#define BENCH_OUTFILE_H

#include <stdbool.h>
#include <stdio.h>

typedef struct outfile {
    FILE *file;
    char *target; /* for messages, and what the file is renamed to */
    char *temp;   /* NULL: written directly */
} outfile;

/* Each returns an exit status, after a message that names the path. */
int outfile_open(outfile *out, const char *path);
int outfile_commit(outfile *out); /* discards on failure */

/* Forgets what was written; nothing happens after a commit. */
void outfile_discard(outfile *out);

/* Finds out early whether path can be written. NULL is fine. */
int outfile_probe(const char *path);

/* Whether path is "-". */
bool outfile_is_dash(const char *path);

/* Whether both name one file, which need not exist yet. NULL is no file. */
bool outfile_same(const char *a, const char *b);

#endif
