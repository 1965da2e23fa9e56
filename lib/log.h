/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HA_LOG_H
#define HA_LOG_H

typedef enum ha_log_level {
    HA_LOG_ERROR,
    HA_LOG_WARN,
    HA_LOG_INFO,
    HA_LOG_DEBUG
} ha_log_level;

/* A line on stderr if HYPERATTN_LOG asks for this level; silent by default. */
void ha_log(ha_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
