/* SPDX-License-Identifier: Apache-2.0
 *
 * Options that several commands share, as argp children. Each option stands in one of them, or in
 * the only command that has it.
 *
 *   run        files_argp, problem_argp, params_argp, method_argp
 *   compare    files_argp, measure_argp
 *   measure    files_argp, problem_argp, params_argp, method_argp
 *   sweep      measure_argp
 *   tune       gen_argp, problem_argp
 */
#ifndef BENCH_OPTIONS_H
#define BENCH_OPTIONS_H

#include <argp.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "hyperattn.h"
#include "input.h"

/* Keys of long options; each command numbers its own from OPTION_COMMAND on. */
enum {
    OPTION_PARAMS = 0x100,
    OPTION_PROBLEM = 0x200,
    OPTION_FILES = 0x300,
    OPTION_GEN = 0x400,
    OPTION_MEASURE = 0x500,
    OPTION_METHOD = 0x600,
    OPTION_COMMAND = 0x700
};

/* Runs a parser over a command's arguments: the whole of argv, options only. */
void parse_arguments(const struct argp *argp, int argc, char **argv, void *options);

/* ---- outputs -------------------------------------------------------------------------------- */

typedef struct output_option {
    const char *option, *path; /* path NULL: not given */
} output_option;

/* Ends the program with status 2 if two of them are one file, as each would overwrite the other. */
void refuse_same_outputs(struct argp_state *state, const output_option *outputs, int count);

/* ---- how: hyperattn_params ------------------------------------------------------------------ */

enum { PARAM_INTS = 6 };

typedef struct params_options {
    bool given; /* any of them */
    bool paper;
    bool int_given[PARAM_INTS]; /* in the order of the table in options_params.c */
    int value[PARAM_INTS];
    bool heavy_given, sampling_given, kappa_given, seed_given;
    hyperattn_heavy heavy;
    hyperattn_sampling sampling;
    float kappa_cap;
    uint64_t seed;
    bool strict_causal;
} params_options;

extern const struct argp params_argp; /* input: params_options */

/* Whether any was given that only hyper has: not --sinks, --window, --strict-causal, nor --seed,
 * which draws rows too. */
bool params_are_hypers(const params_options *options);

/* The base that was asked for, with the given options in place. */
void params_resolve(hyperattn_params *params, const params_options *options);

/* What was used, for a JSON report. */
json_t *params_json(const hyperattn_params *params);

typedef struct method_options {
    bool given;
    hyperattn_method method; /* the command's default unless given */
    int budget;              /* 0: the library's default */
    float target_error;      /* 0: none */
} method_options;

extern const struct argp method_argp; /* input: method_options */

/* A method's name there. */
const char *method_name(hyperattn_method method);

/* Refuses options that multipole would not read. */
void refuse_unread(struct argp_state *state, const params_options *params,
                   const method_options *method);

/* Sets what was asked for. */
void method_resolve(hyperattn_params *params, const method_options *options);

/* ---- what: the problem and its input -------------------------------------------------------- */

typedef struct problem_options {
    bool causal;
    float scale;
    int threads;
    bool dtype_given;
    hyperattn_dtype dtype; /* f32 unless given */
} problem_options;

extern const struct argp problem_argp; /* input: problem_options */

extern const struct argp files_argp; /* --q, --k, --v; input: input_files */

enum { MAX_LENGTHS = 64 };

typedef struct length_list {
    int count;
    int64_t n[MAX_LENGTHS]; /* ascending */
} length_list;

typedef struct gen_options {
    bool given; /* any option but --n */
    gen_spec spec; /* heads_kv 0: as heads */
    length_list lengths; /* count 0: none given */
} gen_options;

extern const struct argp gen_argp; /* input: gen_options */

/* The defaults of a command; the parser checks and completes them. */
void gen_defaults(gen_options *options, gen_kind kind, int64_t heads);

/* Where no lengths were given: first, twice that, and so on up to last. */
void gen_default_lengths(gen_options *options, int64_t first, int64_t last);

/* The longest. */
int64_t longest(const length_list *lengths);

const char *gen_name(gen_kind kind);

/* ---- measuring ------------------------------------------------------------------------------ */

typedef struct measure_options {
    input_files files; /* q NULL: generated input, or that of heads_dir */
    const char *heads_dir; /* compare: a directory of captured heads; NULL: none */
    gen_options gen;
    problem_options problem;
    params_options params;
    bool backward;
    int repeat;
    const char *json, *csv;
} measure_options;

/* Generated input, lengths, problem, params, --backward, --repeat, --json and --csv; input:
 * measure_options, with gen_defaults() made. */
extern const struct argp measure_argp;

#endif
