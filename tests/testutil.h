/* SPDX-License-Identifier: Apache-2.0
 *
 * What every test program shares: guarded memory, reproducible random numbers, 16-bit floats and
 * the counting allocator. Nothing here knows about attention.
 *
 * Verification functions return NULL, or a text that says what is wrong and where; a Check test
 * wraps them in ck_good() of checkmain.h.
 */
#ifndef TESTUTIL_H
#define TESTUTIL_H

#include <stddef.h>
#include <stdint.h>

#include "hyperattn.h"

/* A failure text, as the result of a verification function. Valid until this thread's next. */
const char *failure(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- guarded memory ------------------------------------------------------------------------ */

/* Where the data lies in its pages, which have an inaccessible page on either side. */
typedef enum placement {
    AT_END,   /* the byte after the data faults */
    AT_START, /* the byte before the data faults */
    OFF_BY_4, /* 4 bytes after the start: aligned for f32 and for nothing wider */
    PLACEMENTS
} placement;

typedef struct guarded {
    unsigned char *data;
    size_t size;
    unsigned char *pages; /* the accessible pages; what is not data holds a pattern */
    size_t pages_size;
} guarded;

/* Never fails: ends the process if the system has no memory. */
guarded guarded_new(size_t size, placement at);
/* As AT_END, but aligned to 64 bytes, so up to 63 bytes of pattern follow the data. */
guarded guarded_workspace(size_t size);
void guarded_free(guarded *g);
void guarded_read_only(const guarded *g);
void guarded_writable(const guarded *g);
/* Says if a byte outside the data was written. */
const char *guarded_check(const guarded *g);

/* ---- random numbers ------------------------------------------------------------------------ */

typedef struct rng {
    uint64_t state;
} rng;

rng rng_new(uint64_t seed);
uint64_t rng_next(rng *r);
/* Below n. */
int64_t rng_below(rng *r, int64_t n);
double rng_uniform(rng *r);
double rng_gauss(rng *r);

/* ---- 16-bit floats ------------------------------------------------------------------------- */

size_t dtype_size(hyperattn_dtype dtype);
const char *dtype_name(hyperattn_dtype dtype);
/* Spacing of the numbers just above 1. */
double dtype_eps(hyperattn_dtype dtype);
/* One element of an array of the dtype; stores round to nearest even. */
double element_get(const void *array, int64_t index, hyperattn_dtype dtype);
void element_put(void *array, int64_t index, hyperattn_dtype dtype, double value);
/* Signalling NaNs: what outputs hold before a call, so that an unwritten one shows. */
void fill_signalling(void *array, int64_t count, hyperattn_dtype dtype);
int is_signalling(const void *array, int64_t index, hyperattn_dtype dtype);

/* ---- emulators ----------------------------------------------------------------------------- */

/* Whether an emulator or valgrind runs the tests (make check EMULATOR=...), some fifty times slower
 * than the machine. Tests that do one thing for very many numbers then take fewer of them, and say
 * so in a line that starts with "reduced:". */
int emulated(void);

/* ---- levels and contexts ------------------------------------------------------------------- */

/* Names of the instruction-set levels that this build and this machine have, "ref" first. */
int levels_here(const char *names[], int room);

/* A context under a HYPERATTN_CPU ceiling (NULL: the caller's, if any). Returns NULL with the
 * library's last_error set if it cannot be made. The environment is as before afterwards. */
hyperattn_ctx *ctx_at(const char *level, int nthreads);

/* ---- counting allocator -------------------------------------------------------------------- */

typedef struct allocs {
    int64_t calls;      /* of alloc, successful or not */
    int64_t live;       /* blocks that are not freed */
    int64_t fail_at;    /* this call (1 is the first) returns NULL; 0: none */
    int fail_for_good;  /* and all calls after it */
    int64_t misaligned; /* requests whose alignment is no power of two */
} allocs;

/* Context parameters with this allocator. */
hyperattn_ctx_params allocs_params(allocs *a);

#endif
