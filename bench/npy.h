/* SPDX-License-Identifier: Apache-2.0
 *
 * NumPy's .npy format, versions 1.0, 2.0 and 3.0, read defensively: plain C-order arrays of the
 * three types that attention needs, in this machine's byte order; the header must account for
 * every byte of the file; nothing is allocated before the header and the file's size agree.
 */
#ifndef BENCH_NPY_H
#define BENCH_NPY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum {
    NPY_MAX_RANK = 8,
    NPY_MAX_HEADER = 65536, /* longest header read, in bytes from the file's start */
    NPY_WHY = 160           /* room for a reason */
};

typedef enum npy_type {
    NPY_F32, /* 'f4' */
    NPY_F16, /* 'f2' */
    NPY_U16  /* 'u2': also how bf16 is stored, which NumPy lacks */
} npy_type;

typedef struct npy_info {
    npy_type type;
    int rank; /* 0: one element */
    int64_t shape[NPY_MAX_RANK];
    size_t bytes;  /* of the data */
    size_t offset; /* of the data in the file */
} npy_info;

/* Reads a header from the first length bytes of a file (NPY_MAX_HEADER of them are enough). On
 * failure returns false with the reason in why[NPY_WHY]. */
bool npy_parse(npy_info *info, const unsigned char *head, size_t length, char *why);

/* Reads a whole file. *data is 64-byte aligned, never NULL, and released with free(). */
bool npy_read(const char *path, npy_info *info, void **data, char *why);

/* Writes header and data; false with errno set on failure. */
bool npy_write(FILE *file, npy_type type, int rank, const int64_t *shape, const void *data);

size_t npy_type_size(npy_type type);

/* "float32", "float16" or "uint16" */
const char *npy_type_name(npy_type type);

#endif
