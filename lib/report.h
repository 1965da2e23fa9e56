/* SPDX-License-Identifier: Apache-2.0
 *
 * Reports are written, not read: a caller's may be of an earlier version, and gets the fields that
 * it has room for.
 */
#ifndef HA_REPORT_H
#define HA_REPORT_H

#include "hyperattn.h"

/* struct_size of a caller's report. */
hyperattn_status ha_report_size(size_t *size, const hyperattn_report *report);

/* Writes n reports over a caller's, which are `size` bytes each. */
void ha_report_write(hyperattn_report *to, size_t size, const hyperattn_report *from, int64_t n);

#endif
