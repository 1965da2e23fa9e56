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

/* ---- choices --------------------------------------------------------------------------------- */

#define CHOICE_FIELD(name) offsetof(hyperattn_choice, name)
static const size_t choice_fields[] = {
    CHOICE_FIELD(method), CHOICE_FIELD(budget),    CHOICE_FIELD(step),
    CHOICE_FIELD(tried),  CHOICE_FIELD(rel_error), CHOICE_FIELD(rows_checked),
};
static const ha_struct choice_kind = {"hyperattn_choice", sizeof(hyperattn_choice), choice_fields,
                                      sizeof choice_fields / sizeof *choice_fields};

void hyperattn_choice_init(hyperattn_choice *choice)
{
    if (choice)
        *choice = (hyperattn_choice){.struct_size = sizeof *choice};
}

hyperattn_status ha_choice_size(size_t *size, const hyperattn_choice *choice)
{
    hyperattn_choice ignored;
    memcpy(size, choice, sizeof *size);
    return ha_struct_read(&ignored, choice, &choice_kind);
}

void ha_choice_write(hyperattn_choice *to, size_t size, const hyperattn_choice *from, int64_t i)
{
    hyperattn_choice c = *from;
    c.struct_size = size;
    memcpy((char *)to + (size_t)i * size, &c, size);
}
