/* SPDX-License-Identifier: Apache-2.0 */
#include "log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "env.h"

static const char *const names[] = {"error", "warn", "info", "debug"};

static int wanted(ha_log_level level)
{
    const char *value = ha_env(HA_ENV_LOG);
    if (!value)
        return 0;
    for (int i = 0; i < 4; i++)
        if (strcmp(value, names[i]) == 0)
            return (int)level <= i;
    return 0;
}

void ha_log(ha_log_level level, const char *format, ...)
{
    if (!wanted(level))
        return;
    char line[512];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    fprintf(stderr, "hyperattn: %s: %s\n", names[level], line);
}
