/* SPDX-License-Identifier: Apache-2.0
 *
 * What a measurement was made of: for the heads of tables, figures and JSON reports.
 */
#ifndef BENCH_DESCRIBE_H
#define BENCH_DESCRIBE_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "measure.h"

/* One line: input, heads, dim, type, level, threads. */
void describe_line(char *text, size_t size, const measurement *m);

/* The same of captured heads, of several folders. */
void describe_heads(char *text, size_t size, const measurement *m, int folders, int64_t heads);

/* An object to which results are added. */
json_t *describe_json(const measurement *m);

#endif
