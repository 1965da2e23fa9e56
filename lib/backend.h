/* SPDX-License-Identifier: Apache-2.0
 *
 * The contract between libhyperattn and a backend, version 1. A backend is one constant table of
 * functions; the CPU's is built in, others are modules (lib/module.h). A module is built with this
 * header, hyperattn.h and the headers of lib/algo, and calls nothing else of the library: what it
 * needs comes in a table too.
 *
 * Both tables begin with abi_version and struct_size. Within one abi_version the structs here stay
 * as they are, but for functions appended to the tables; struct_size tells which are there.
 */
#ifndef HA_BACKEND_H
#define HA_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#include "hyperattn.h"

#define HA_BACKEND_ABI 1

/* ---- what the host gives --------------------------------------------------------------------- */

typedef enum ha_log_level {
    HA_LOG_ERROR,
    HA_LOG_WARN,
    HA_LOG_INFO,
    HA_LOG_DEBUG
} ha_log_level;

/* The shared decisions of the algorithms: lib/algo/algo.h. */
struct ha_algo;

typedef struct ha_host {
    uint32_t abi_version; /* HA_BACKEND_ABI of the library */
    size_t struct_size;
    /* Sets the calling thread's hyperattn_last_error() and returns status. */
    hyperattn_status (*fail)(hyperattn_status status, const char *format, ...)
        __attribute__((format(printf, 2, 3)));
    /* A line on stderr if HYPERATTN_LOG asks for this level. */
    void (*log)(ha_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
    /* 64-byte aligned host memory from the context's allocator; NULL with the text set. Only in the
     * thread that called the library. free ignores NULL. */
    void *(*alloc)(const hyperattn_ctx *ctx, size_t size);
    void (*free)(const hyperattn_ctx *ctx, void *ptr);
    const struct ha_algo *algo;
} ha_host;

/* ---- what a backend works on ----------------------------------------------------------------- */

/* A context's device. */
typedef struct ha_device {
    const hyperattn_ctx *ctx; /* for alloc and free; opaque */
    int nthreads;             /* host threads that a call may use, at least 1 */
    int device;               /* as in hyperattn_ctx_params */
    void *stream;
    /* set by open */
    void *state;        /* the backend's own */
    const char *isa;    /* "avx2", "sm_80", ...; valid until close */
    const char *reason; /* why nothing better was taken, or ""; the same */
} ha_device;

/* Bytes from a tensor's first element to behind its last. dout lies as out; dq, dk and dv as q, k
 * and v. */
typedef struct ha_extents {
    size_t q, k, v, out, lse;
} ha_extents;

struct ha_profile;
struct ha_ladder;

/* A plan. Everything it points to is constant and lives as long. */
typedef struct ha_plan {
    const hyperattn_problem *problem; /* every default and stride filled in */
    const hyperattn_params *params;   /* method is not AUTO; EXACT: all but seed are the defaults */
    ha_extents bytes;
    const ha_device *device;
    struct ha_profile *profile; /* stage times of lib/profile.h go here, or NULL: bench/ only */
    /* set by the table's plan */
    void *data;                           /* the backend's own */
    size_t workspace, workspace_backward; /* bytes for a call of forward, backward */
    /* NULL, or what each head's params are chosen from; params are its last step's then. Only for
     * backends that have forward_report. */
    const struct ha_ladder *ladder;
} ha_plan;

typedef struct ha_tensors {
    const void *q, *k, *v;
    void *out;
    float *lse; /* or NULL */
} ha_tensors;

typedef struct ha_gradients {
    const void *q, *k, *v, *out;
    const float *lse;
    const void *dout;
    void *dq, *dk, *dv;
} ha_gradients;

typedef struct ha_measured {
    const void *q, *k, *v, *out;
} ha_measured;

/* ---- what a backend gives -------------------------------------------------------------------- */

typedef enum ha_memory {
    HA_MEMORY_HOST,
    HA_MEMORY_DEVICE
} ha_memory;

/* Every function may be called by several threads at once, each with a workspace of its own.
 * Arguments have been checked: pointers, alignment and overlaps too. What a backend cannot do gives
 * HYPERATTN_ENOTSUP and a text, never another result. Whatever fails returns its status after
 * host->fail and leaves nothing allocated. */
typedef struct ha_backend {
    uint32_t abi_version; /* HA_BACKEND_ABI */
    size_t struct_size;
    const char *name; /* "cpu", "cuda" */
    /* Where a caller's workspace lies. A call without one gets host memory from the context's
     * allocator, or, with HA_MEMORY_DEVICE, NULL: then the backend finds its own. */
    ha_memory workspace;
    hyperattn_status (*open)(ha_device *device);
    void (*close)(ha_device *device); /* after an open that succeeded */
    hyperattn_status (*plan)(ha_plan *plan);
    void (*unplan)(ha_plan *plan); /* after a plan that succeeded */
    hyperattn_status (*forward)(const ha_plan *plan, const ha_tensors *t, void *workspace);
    hyperattn_status (*backward)(const ha_plan *plan, const ha_gradients *t, void *workspace);
    hyperattn_status (*merge)(const ha_plan *plan, void *out, float *lse, const void *out2,
                              const float *lse2);
    /* NULL, or behind the end of an older module's table: there is none. rows is at least 1. total
     * and per_head (batch * nheads entries, or NULL) are structs of this version, struct_size
     * included. Allocates by host->alloc what it needs. */
    hyperattn_status (*measure)(const ha_plan *plan, const ha_measured *t, int64_t rows,
                                hyperattn_report *total, hyperattn_report *per_head);
    /* NULL, or behind the end of an older module's table: it cannot choose. As forward, of a plan
     * that has a ladder, but that it also writes a choice for each of batch * nheads heads, of
     * which the caller takes the first `size` bytes each, and size as its struct_size. */
    hyperattn_status (*forward_report)(const ha_plan *plan, const ha_tensors *t, void *workspace,
                                       hyperattn_choice *per_head, size_t size);
} ha_backend;

/* The one function that a module exports, as `hyperattn_backend_query`. It checks host's
 * abi_version and struct_size (HYPERATTN_EVERSION), keeps host, which stays valid, and gives its
 * table; or it fails, with a text that says why it cannot serve. */
typedef hyperattn_status ha_backend_query(const ha_host *host, const ha_backend **backend);

#define HA_BACKEND_QUERY "hyperattn_backend_query"

#endif
