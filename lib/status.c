/* SPDX-License-Identifier: Apache-2.0 */
#include "status.h"

#include <stdarg.h>
#include <stdio.h>

#include "log.h"

static _Thread_local char detail[HA_DETAIL];

hyperattn_status ha_fail(hyperattn_status status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(detail, sizeof detail, format, args);
    va_end(args);
    ha_log(HA_LOG_INFO, "%s: %s", hyperattn_strerror(status), detail);
    return status;
}

void ha_set_detail(const char *text)
{
    snprintf(detail, sizeof detail, "%s", text);
}

const char *hyperattn_last_error(void)
{
    return detail;
}

const char *hyperattn_strerror(int status)
{
    switch (status) {
    case HYPERATTN_OK: return "success";
    case HYPERATTN_EINVAL: return "invalid argument";
    case HYPERATTN_ENOTSUP: return "not supported";
    case HYPERATTN_ENOMEM: return "out of memory";
    case HYPERATTN_EBACKEND: return "backend unavailable";
    case HYPERATTN_EVERSION: return "version mismatch";
    default: return "unknown status";
    }
}
