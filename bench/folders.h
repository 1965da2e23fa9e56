/* SPDX-License-Identifier: Apache-2.0
 *
 * Folders of captured heads: those that hold q.npy, k.npy and v.npy.
 */
#ifndef BENCH_FOLDERS_H
#define BENCH_FOLDERS_H

#include "input.h"

typedef struct folder {
    char *name;    /* below the directory; "." for itself */
    char *q, *k, *v; /* paths of the files */
} folder;

typedef struct folder_list {
    int count;
    folder *all; /* in the order of their names */
} folder_list;

/* The directory itself if it holds q.npy, and otherwise its folders that do. An exit status, not
 * STATUS_OK without any; folders_free is needed after failures too. */
int folders_find(folder_list *list, const char *directory);
void folders_free(folder_list *list);

#endif
