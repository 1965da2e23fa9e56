/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HA_INT64_H
#define HA_INT64_H

#include <stdint.h>

static inline int64_t ha_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t ha_max(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

#endif
