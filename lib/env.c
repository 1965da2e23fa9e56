/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "env.h"

#include <stdlib.h>
#include <unistd.h>

const char *ha_env(const char *name)
{
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

const char *ha_env_secure(const char *name)
{
#ifdef HAVE_SECURE_GETENV
    const char *value = secure_getenv(name);
    return value && *value ? value : NULL;
#else
    return getuid() == geteuid() && getgid() == getegid() ? ha_env(name) : NULL;
#endif
}
