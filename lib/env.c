/* SPDX-License-Identifier: Apache-2.0 */
#include "env.h"

#include <stdlib.h>

const char *ha_env(const char *name)
{
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}
