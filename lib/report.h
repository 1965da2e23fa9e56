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

/* The same of choices: entry i of a caller's. */
hyperattn_status ha_choice_size(size_t *size, const hyperattn_choice *choice);
void ha_choice_write(hyperattn_choice *to, size_t size, const hyperattn_choice *from, int64_t i);

#endif
