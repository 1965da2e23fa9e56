/* SPDX-License-Identifier: Apache-2.0 */
#include "values.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static uint64_t unit_of(char suffix)
{
    switch (suffix) {
    case 'k':
    case 'K':
        return 1024;
    case 'm':
    case 'M':
        return 1048576;
    default:
        return 1;
    }
}

bool read_whole(const char *text, uint64_t *value, const char **end)
{
    const char *at = text;
    uint64_t x = 0;
    for (; *at >= '0' && *at <= '9'; at++) {
        if (__builtin_mul_overflow(x, 10, &x) ||
            __builtin_add_overflow(x, (uint64_t)(*at - '0'), &x))
            return false;
    }
    if (at == text)
        return false;
    uint64_t unit = unit_of(*at);
    *end = at + (unit > 1);
    return !__builtin_mul_overflow(x, unit, value);
}

uint64_t parse_whole(struct argp_state *state, const char *option, const char *text, uint64_t min,
                     uint64_t max)
{
    uint64_t value;
    const char *end;
    if (!read_whole(text, &value, &end) || *end || value < min || value > max)
        argp_error(state, "%s %s: need a whole number from %" PRIu64 " to %" PRIu64, option, text,
                   min, max);
    return value;
}

double parse_real(struct argp_state *state, const char *option, const char *text, double min,
                  double max)
{
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= min && value <= max))
        argp_error(state, "%s %s: need a number from %g to %g", option, text, min, max);
    /* to options a 0 means something else than a small number does */
    if ((float)value == 0 && (value != 0 || errno == ERANGE))
        argp_error(state, "%s %s: too small to tell from 0", option, text);
    return value;
}

int parse_choice(struct argp_state *state, const char *option, const char *text, int count,
                 const char *const *names)
{
    char all[128] = "";
    for (int i = 0; i < count; i++) {
        if (strcmp(text, names[i]) == 0)
            return i;
        size_t used = strlen(all);
        snprintf(all + used, sizeof all - used, "%s%s", i ? ", " : "", names[i]);
    }
    argp_error(state, "%s %s: need one of %s", option, text, all);
    return 0;
}
