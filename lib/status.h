/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HA_STATUS_H
#define HA_STATUS_H

#include "hyperattn.h"

/* Bytes of a detail text. */
#define HA_DETAIL 256

/* Sets this thread's detail text and returns status, so that a check reads
 *     if (bad) return ha_fail(HYPERATTN_EINVAL, "seqlen_q is %lld, must be >= 1", ...); */
hyperattn_status ha_fail(hyperattn_status status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Puts back a detail text that was kept while something was tried. */
void ha_set_detail(const char *text);

#endif
