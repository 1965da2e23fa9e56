/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels.h"

#include <string.h>

#include "config.h"
#include "env.h"
#include "log.h"

/* The plain specification is in every build. */
#define HA_HAVE_REF 1

/* A table's address, or NULL where HA_HAVE_NAME is 0: then there is no such table to be linked. */
#define TABLE_1(name) &ha_kernels_##name
#define TABLE_0(name) NULL
#define TABLE_IF(have, name) TABLE_WHICH(have, name)
#define TABLE_WHICH(have, name) TABLE_##have(name)

#define LEVEL(NAME, name, needs) {#name, TABLE_IF(HA_HAVE_##NAME, name), needs},
static const struct {
    const char *name;
    const ha_kernels *table;
    unsigned needs;
} levels[HA_LEVELS] = {HA_LEVEL_LIST(LEVEL)};

const char *ha_level_name(ha_level level)
{
    return levels[level].name;
}

int ha_level_is_built_in(ha_level level)
{
    return levels[level].table != NULL;
}

int ha_level_runs_here(ha_level level)
{
    return (levels[level].needs & ~ha_cpu_features()) == 0;
}

const ha_kernels *ha_kernels_at(ha_level level)
{
    return ha_level_runs_here(level) ? levels[level].table : NULL;
}

/* The level of that name, or -1. */
static int level_called(const char *name)
{
    int level = HA_LEVELS - 1;
    while (level >= 0 && strcmp(name, levels[level].name) != 0)
        level--;
    return level;
}

/* Why no level above `level` was taken, where `top` is the ceiling. */
static const char *reason_below(int level, int top)
{
    const char *reason = "";
    for (int better = level + 1; better < HA_LEVELS; better++) {
        if (better > top && ha_kernels_at((ha_level)better))
            reason = HA_ENV_CPU " is a lower ceiling";
        else if (!levels[better].table && ha_level_runs_here((ha_level)better))
            reason = "this build lacks the processor's better level";
    }
    return reason;
}

const ha_kernels *ha_kernels_best(const char **reason)
{
    const char *ceiling = ha_env(HA_ENV_CPU);
    int top = ceiling ? level_called(ceiling) : HA_LEVELS - 1, unknown = top < 0;
    if (unknown) {
        ha_log(HA_LOG_WARN, HA_ENV_CPU "=%s is not a level of this architecture", ceiling);
        top = HA_LEVELS - 1;
    }
    int level = top;
    while (!ha_kernels_at((ha_level)level))
        level--;
    if (unknown)
        *reason = HA_ENV_CPU " is not a level of this architecture: taken as unset";
    else if (ceiling && level < top)
        *reason = HA_ENV_CPU " asks for a level that this build or processor lacks";
    else
        *reason = reason_below(level, top);
    return levels[level].table;
}
