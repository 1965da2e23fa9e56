/* SPDX-License-Identifier: Apache-2.0
 *
 * What a measurement was made of: for the heads of tables, figures and JSON reports.
 */
#ifndef BENCH_DESCRIBE_H
#define BENCH_DESCRIBE_H

#include <jansson.h>
#include <stddef.h>

#include "hyperattn.h"
#include "input.h"
#include "options.h"

typedef struct setting {
    const char *command;
    const hyperattn_ctx *ctx;
    const input *in;
    const input_files *files;    /* q NULL: generated */
    const gen_options *gen;
    const problem_options *problem;
    const hyperattn_params *params;
    int repeat;
} setting;

/* One line: input, heads, dim, type, level, threads. */
void describe_line(char *text, size_t size, const setting *s);

/* An object to which results are added. */
json_t *describe_json(const setting *s);

#endif
