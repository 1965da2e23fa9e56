/* SPDX-License-Identifier: Apache-2.0
 *
 * errno of the calling program: HA_KEEP_ERRNO; at the top of every public function that could touch
 * it, be it through the C library, a callback or a module. It is put back at each return.
 */
#ifndef HA_KEEP_ERRNO_H
#define HA_KEEP_ERRNO_H

#include <errno.h>

static inline void ha_restore_errno(const int *before)
{
    errno = *before;
}

#define HA_KEEP_ERRNO \
    __attribute__((cleanup(ha_restore_errno), unused)) const int ha_errno_before = errno

#endif
