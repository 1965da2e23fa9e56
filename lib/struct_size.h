/* SPDX-License-Identifier: Apache-2.0
 *
 * The public structs that begin with struct_size grow by fields at their end. A caller's may be of
 * an earlier version: what it has is taken, the fields behind have their defaults.
 */
#ifndef HA_STRUCT_SIZE_H
#define HA_STRUCT_SIZE_H

#include <stddef.h>

#include "hyperattn.h"

typedef struct ha_struct {
    const char *name;
    size_t size;         /* of this version */
    const size_t *field; /* offsets of all but struct_size: where smaller ones may end */
    size_t nfields;
} ha_struct;

/* Copies a caller's struct over *to, which holds the defaults. HYPERATTN_EVERSION if it is larger
 * than this version's, HYPERATTN_EINVAL if it does not end where a field begins. */
hyperattn_status ha_struct_read(void *to, const void *from, const ha_struct *kind);

#endif
