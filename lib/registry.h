/* SPDX-License-Identifier: Apache-2.0
 *
 * Which backend a context gets.
 */
#ifndef HA_REGISTRY_H
#define HA_REGISTRY_H

#include "context.h"

/* Opens a backend for ctx, whose device says what is wanted: the one that is requested, or, for
 * AUTO, that of HYPERATTN_BACKEND, or else the best that serves. Sets backend, device, reason. */
hyperattn_status ha_registry_open(hyperattn_ctx *ctx, hyperattn_backend request);

#endif
