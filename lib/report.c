/* SPDX-License-Identifier: Apache-2.0 */
#include "report.h"

#include <string.h>

#include "struct_size.h"

#define FIELD(name) offsetof(hyperattn_report, name)
static const size_t fields[] = {
    FIELD(rel_error),     FIELD(rel_error_low), FIELD(rel_error_high), FIELD(max_row_error),
    FIELD(alpha),         FIELD(kappa),         FIELD(rows_checked),
};
static const ha_struct kind = {"hyperattn_report", sizeof(hyperattn_report), fields,
                               sizeof fields / sizeof *fields};

void hyperattn_report_init(hyperattn_report *report)
{
    if (report)
        *report = (hyperattn_report){.struct_size = sizeof *report};
}

hyperattn_status ha_report_size(size_t *size, const hyperattn_report *report)
{
    hyperattn_report ignored;
    memcpy(size, report, sizeof *size);
    return ha_struct_read(&ignored, report, &kind);
}

void ha_report_write(hyperattn_report *to, size_t size, const hyperattn_report *from, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        hyperattn_report r = from[i];
        r.struct_size = size;
        memcpy((char *)to + (size_t)i * size, &r, size);
    }
}
