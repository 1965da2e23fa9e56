/* SPDX-License-Identifier: Apache-2.0 */
#include "backend.h"

#include <string.h>

#include "env.h"
#include "status.h"

hyperattn_status ha_backend_choose(const ha_backend **backend, hyperattn_backend request)
{
    const char *wish = request == HYPERATTN_BACKEND_AUTO ? ha_env(HA_ENV_BACKEND) : NULL;
    if (wish && strcmp(wish, "auto") != 0 && strcmp(wish, "cpu") != 0)
        return ha_fail(HYPERATTN_EBACKEND, HA_ENV_BACKEND "=%s: this build has only cpu", wish);
    *backend = &ha_backend_cpu;
    return HYPERATTN_OK;
}
