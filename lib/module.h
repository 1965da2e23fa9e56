/* SPDX-License-Identifier: Apache-2.0
 *
 * Backends that are shared objects, loaded at run time: libhyperattn-cuda.so.
 */
#ifndef HA_MODULE_H
#define HA_MODULE_H

#include "backend.h"
#include "status.h"

typedef struct ha_module {
    hyperattn_status status;   /* HYPERATTN_OK: the backend can be opened */
    const ha_backend *backend; /* lives as long as the process */
    int absent;                /* there is no such file */
    const char *note;          /* what was ignored on the way, or "" */
    char reason[HA_DETAIL];    /* of a status that is not HYPERATTN_OK */
} ha_module;

/* Looked for and loaded at the first call in the process; never unloaded, as a device's runtime
 * need not survive that. */
const ha_module *ha_module_cuda(void);

#endif
