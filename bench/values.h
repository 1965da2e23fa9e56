/* SPDX-License-Identifier: Apache-2.0
 *
 * The values of options. Each parser ends the program with a message that names the option and
 * status 2 if text is no such value.
 */
#ifndef BENCH_VALUES_H
#define BENCH_VALUES_H

#include <argp.h>
#include <stdbool.h>
#include <stdint.h>

/* Decimal digits and, behind them, k or m (times 1024 or 1048576, in either case); *end is what
 * follows. False if there are none, or their value exceeds 64 bits. */
bool read_whole(const char *text, uint64_t *value, const char **end);

/* Such a number and nothing else. */
uint64_t parse_whole(struct argp_state *state, const char *option, const char *text, uint64_t min,
                     uint64_t max);

/* min and max are floats. A number so small that it becomes 0 as one is refused. */
double parse_real(struct argp_state *state, const char *option, const char *text, double min,
                  double max);

/* Index of text in names[count]. */
int parse_choice(struct argp_state *state, const char *option, const char *text, int count,
                 const char *const *names);

#endif
