/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HA_LOG_H
#define HA_LOG_H

#include "backend.h"

/* A line on stderr if HYPERATTN_LOG asks for this level; silent by default. */
void ha_log(ha_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
