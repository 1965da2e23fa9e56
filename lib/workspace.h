/* SPDX-License-Identifier: Apache-2.0
 *
 * Carving a workspace into arrays: the same code sizes it (base NULL) and lays it out.
 */
#ifndef HA_WORKSPACE_H
#define HA_WORKSPACE_H

#include <stddef.h>
#include <stdint.h>

typedef struct ha_carver {
    char *base;
    size_t used;
    int wraps; /* a size did not fit */
} ha_carver;

/* count elements of size bytes, 64-byte aligned; NULL while sizing. */
static inline void *ha_carve(ha_carver *c, int64_t count, size_t size)
{
    size_t bytes, end;
    if (__builtin_mul_overflow((uint64_t)count, size, &bytes) ||
        __builtin_add_overflow(bytes, 63, &bytes) ||
        __builtin_add_overflow(c->used, bytes & ~(size_t)63, &end) || end > PTRDIFF_MAX) {
        c->wraps = 1;
        return NULL;
    }
    void *at = c->base ? c->base + c->used : NULL;
    c->used = end;
    return at;
}

#endif
