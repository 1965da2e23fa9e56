/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HA_CONTEXT_H
#define HA_CONTEXT_H

#include "backend.h"
#include "status.h"

struct hyperattn_ctx {
    const ha_backend *backend;
    ha_device device;           /* its state is the backend's */
    char reason[2 * HA_DETAIL]; /* why no better backend, then why no better level */
    void *(*alloc)(size_t align, size_t size, void *user);
    void (*free)(void *ptr, void *user);
    void *user;
};

/* 64-byte aligned memory from the context's allocator; NULL with the detail text set. */
void *ha_alloc(const hyperattn_ctx *ctx, size_t size);
void ha_free(const hyperattn_ctx *ctx, void *ptr);

#endif
