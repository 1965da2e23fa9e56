/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels.h"

#include <string.h>

#include "config.h"
#include "cpufeat.h"
#include "env.h"
#include "log.h"

static const char *const names[HA_LEVELS] = {"ref", "avx2", "avx512", "avx512bf16", "neon",
                                             "neonbf16"};

static const ha_kernels *const tables[HA_LEVELS] = {
    [HA_LEVEL_REF] = &ha_kernels_ref,
#ifdef HA_HAVE_AVX2
    [HA_LEVEL_AVX2] = &ha_kernels_avx2,
#endif
#ifdef HA_HAVE_AVX512
    [HA_LEVEL_AVX512] = &ha_kernels_avx512,
#endif
#ifdef HA_HAVE_AVX512BF16
    [HA_LEVEL_AVX512BF16] = &ha_kernels_avx512bf16,
#endif
#ifdef HA_HAVE_NEON
    [HA_LEVEL_NEON] = &ha_kernels_neon,
#endif
#ifdef HA_HAVE_NEONBF16
    [HA_LEVEL_NEONBF16] = &ha_kernels_neonbf16,
#endif
};

const char *ha_level_name(ha_level level)
{
    return names[level];
}

const ha_kernels *ha_kernels_at(ha_level level)
{
    return tables[level] && ha_cpu_has(level) ? tables[level] : NULL;
}

const ha_kernels *ha_kernels_best(const char **reason)
{
    const char *ceiling = ha_env(HA_ENV_CPU);
    int top = HA_LEVELS - 1, unknown = 0;
    *reason = "";
    if (ceiling) {
        while (top >= 0 && strcmp(ceiling, names[top]) != 0)
            top--;
        unknown = top < 0;
        if (unknown) {
            ha_log(HA_LOG_WARN, HA_ENV_CPU "=%s is not a level", ceiling);
            top = HA_LEVELS - 1;
        }
    }
    int level = top;
    while (!ha_kernels_at((ha_level)level))
        level--;
    if (unknown)
        *reason = HA_ENV_CPU " is not a level: taken as unset";
    else if (ceiling && level < top)
        *reason = HA_ENV_CPU " asks for a level that this build or processor lacks";
    else
        for (int better = level + 1; better < HA_LEVELS; better++) {
            if (better > top && ha_kernels_at((ha_level)better))
                *reason = HA_ENV_CPU " is a lower ceiling";
            else if (!tables[better] && ha_cpu_has((ha_level)better))
                *reason = "this build lacks the processor's better level";
        }
    return tables[level];
}
