/* SPDX-License-Identifier: Apache-2.0 */
#include "folders.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "message.h"

/* directory/name/file; NULL without memory. */
static char *join(const char *directory, const char *name, const char *file)
{
    size_t size = strlen(directory) + strlen(name) + strlen(file) + 3;
    char *path = malloc(size);
    if (path)
        snprintf(path, size, "%s/%s/%s", directory, name, file);
    return path;
}

static void folder_free(folder *f)
{
    free(f->name);
    free(f->q);
    free(f->k);
    free(f->v);
}

/* Adds the folder if it holds q.npy. */
static int add(folder_list *list, const char *directory, const char *name)
{
    folder f = {strdup(name), join(directory, name, "q.npy"), join(directory, name, "k.npy"),
                join(directory, name, "v.npy")};
    bool whole = f.name && f.q && f.k && f.v;
    if (whole && access(f.q, F_OK)) {
        folder_free(&f);
        return STATUS_OK;
    }
    folder *all = realloc(list->all, ((size_t)list->count + 1) * sizeof *all);
    if (all)
        list->all = all;
    if (!all || !whole) {
        folder_free(&f);
        return failed("%s: out of memory", directory);
    }
    list->all[list->count++] = f;
    return STATUS_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const folder *)a)->name, ((const folder *)b)->name);
}

static int add_folders(folder_list *list, const char *directory, DIR *open)
{
    int status = STATUS_OK;
    const struct dirent *item;
    while (status == STATUS_OK && (errno = 0, item = readdir(open)))
        if (item->d_name[0] != '.')
            status = add(list, directory, item->d_name);
    if (status == STATUS_OK && errno)
        status = failed("%s: %s", directory, strerror(errno));
    return status;
}

int folders_find(folder_list *list, const char *directory)
{
    *list = (folder_list){0};
    DIR *open = opendir(directory);
    if (!open)
        return bad_input("%s: %s", directory, strerror(errno));
    int status = add(list, directory, ".");
    if (status == STATUS_OK && list->count == 0)
        status = add_folders(list, directory, open);
    closedir(open);
    if (status == STATUS_OK && list->count == 0)
        status = bad_input("%s: neither it nor a folder in it holds q.npy, k.npy and v.npy",
                           directory);
    if (list->count) /* an empty list has no array, and qsort wants one */
        qsort(list->all, (size_t)list->count, sizeof *list->all, by_name);
    return status;
}

void folders_free(folder_list *list)
{
    for (int i = 0; i < list->count; i++)
        folder_free(&list->all[i]);
    free(list->all);
    *list = (folder_list){0};
}
