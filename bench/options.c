/* SPDX-License-Identifier: Apache-2.0 */
#include "options.h"

#include <errno.h>
#include <float.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "convert.h"

/* ---- values --------------------------------------------------------------------------------- */

/* A whole number with an optional suffix k or m (times 1024 or 1048576); *end is what follows. */
static bool read_int(const char *text, int64_t *value, const char **end)
{
    char *rest;
    errno = 0;
    long long x = strtoll(text, &rest, 10);
    if (rest == text || errno)
        return false;
    char suffix = *rest;
    long long unit = suffix == 'k' || suffix == 'K'   ? 1024
                     : suffix == 'm' || suffix == 'M' ? 1048576
                                                      : 1;
    *end = rest + (unit > 1);
    *value = x;
    return !__builtin_mul_overflow(*value, unit, value);
}

int64_t parse_int(struct argp_state *state, const char *option, const char *text, int64_t min,
                  int64_t max)
{
    int64_t value;
    const char *end;
    if (!read_int(text, &value, &end) || *end || value < min || value > max)
        argp_error(state, "%s %s: need a whole number from %" PRId64 " to %" PRId64, option, text,
                   min, max);
    return value;
}

double parse_real(struct argp_state *state, const char *option, const char *text, double min,
                  double max)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= min && value <= max))
        argp_error(state, "%s %s: need a number from %g to %g", option, text, min, max);
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

static uint64_t parse_seed(struct argp_state *state, const char *option, const char *text)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 0);
    if (text[0] < '0' || text[0] > '9' || *end || errno)
        argp_error(state, "%s %s: need a whole number from 0 to 2^64 - 1", option, text);
    return value;
}

static void add_length(struct argp_state *state, length_list *list, int64_t n)
{
    if (list->count == MAX_LENGTHS)
        argp_error(state, "--n: more than %d lengths", MAX_LENGTHS);
    if (list->count && n <= list->n[list->count - 1])
        argp_error(state, "--n: lengths must ascend");
    list->n[list->count++] = n;
}

/* LIST of --n: N or A:B, separated by commas. */
static void parse_lengths(struct argp_state *state, const char *text, length_list *list)
{
    const int64_t most = UINT32_MAX;
    list->count = 0;
    for (const char *at = text;; at++) {
        int64_t first = 0, last = 0;
        bool ok = read_int(at, &first, &at);
        last = first;
        if (ok && *at == ':')
            ok = read_int(at + 1, &last, &at);
        if (!ok || (*at && *at != ',') || first < 1 || last < first || last > most)
            argp_error(state, "--n %s: need lengths N or ranges A:B, from 1 to %" PRId64, text,
                       most);
        for (; first <= last; first *= 2)
            add_length(state, list, first);
        if (!*at)
            return;
    }
}

/* ---- params --------------------------------------------------------------------------------- */

static const struct {
    const char *option, *key;
    size_t offset;
    int min, max;
} param_ints[PARAM_INTS] = {
    {"--projections", "lsh_num_projs", offsetof(hyperattn_params, lsh_num_projs), 1, 16},
    {"--block", "block_size", offsetof(hyperattn_params, block_size), 1, INT_MAX},
    {"--sample", "sample_size", offsetof(hyperattn_params, sample_size), 0, INT_MAX},
    {"--leaf", "min_seq_len", offsetof(hyperattn_params, min_seq_len), 1, INT_MAX},
    {"--sinks", "num_sinks", offsetof(hyperattn_params, num_sinks), 0, INT_MAX},
    {"--window", "window", offsetof(hyperattn_params, window), 0, INT_MAX},
};

static const char *const heavy_names[] = {"sortlsh", "none"};
static const char *const sampling_names[] = {"uniform", "vnorm"};

enum {
    KEY_HEAVY = OPTION_PARAMS + PARAM_INTS, /* the keys below are indices into param_ints */
    KEY_SAMPLING,
    KEY_STRICT,
    KEY_KAPPA,
    KEY_SEED,
    KEY_PAPER
};

static const struct argp_option params_option_list[] = {
    {NULL, 0, NULL, 0, "HyperAttention:", 6},
    {"paper", KEY_PAPER, NULL, 0,
     "Start from the published algorithm's parameters, not the library's defaults", 6},
    {"heavy", KEY_HEAVY, "KIND", 0, "Exact blocks: sortlsh (default) or none", 6},
    {"sampling", KEY_SAMPLING, "KIND", 0, "Sampled columns: uniform (default) or vnorm", 6},
    {"projections", OPTION_PARAMS + 0, "N", 0, "Hash bits, 1 to 16 (7)", 6},
    {"block", OPTION_PARAMS + 1, "N", 0, "Keys per exact block (256)", 6},
    {"sample", OPTION_PARAMS + 2, "N", 0, "Sampled columns beside the block, 0: none (256)", 6},
    {"leaf", OPTION_PARAMS + 3, "N", 0,
     "Causal: exact at and below this length (1024; 4096 with --paper)", 6},
    {"sinks", OPTION_PARAMS + 4, "N", 0,
     "First keys attended exactly by every row (16; 0 with --paper)", 6},
    {"window", OPTION_PARAMS + 5, "N", 0,
     "Causal: nearest keys attended exactly by every row (0)", 6},
    {"strict-causal", KEY_STRICT, NULL, 0, "Causal: a row depends on no later row", 6},
    {"kappa-cap", KEY_KAPPA, "X", 0,
     "Cap sampled entries row by row with this kappa, 0: no (0)", 6},
    {"seed", KEY_SEED, "N", 0, "Seed of hashes and samples (0)", 6},
    {0}};

static error_t parse_params(int key, char *text, struct argp_state *state)
{
    params_options *o = state->input;
    int index = key - OPTION_PARAMS;
    if (index >= 0 && index < PARAM_INTS) {
        o->given[index] = true;
        o->value[index] = (int)parse_int(state, param_ints[index].option, text,
                                         param_ints[index].min, param_ints[index].max);
        return 0;
    }
    switch (key) {
    case KEY_PAPER:
        o->paper = true;
        return 0;
    case KEY_HEAVY:
        o->heavy_given = true;
        o->heavy = (hyperattn_heavy)parse_choice(state, "--heavy", text, 2, heavy_names);
        return 0;
    case KEY_SAMPLING:
        o->sampling_given = true;
        o->sampling = (hyperattn_sampling)parse_choice(state, "--sampling", text, 2,
                                                       sampling_names);
        return 0;
    case KEY_STRICT:
        o->strict_causal = true;
        return 0;
    case KEY_KAPPA:
        o->kappa_given = true;
        o->kappa_cap = (float)parse_real(state, "--kappa-cap", text, 0, FLT_MAX);
        return 0;
    case KEY_SEED:
        o->seed_given = true;
        o->seed = parse_seed(state, "--seed", text);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp params_argp = {.options = params_option_list, .parser = parse_params};

void params_resolve(hyperattn_params *params, const params_options *o)
{
    if (o->paper)
        hyperattn_params_paper(params);
    else
        hyperattn_params_init(params);
    for (int i = 0; i < PARAM_INTS; i++) {
        if (o->given[i])
            memcpy((char *)params + param_ints[i].offset, &o->value[i], sizeof o->value[i]);
    }
    if (o->heavy_given)
        params->heavy = o->heavy;
    if (o->sampling_given)
        params->sampling = o->sampling;
    if (o->kappa_given)
        params->kappa_cap = o->kappa_cap;
    if (o->seed_given)
        params->seed = o->seed;
    params->strict_causal |= o->strict_causal;
}

json_t *params_json(const hyperattn_params *params)
{
    json_t *object = json_object();
    json_object_set_new(object, "heavy", json_string(heavy_names[params->heavy]));
    json_object_set_new(object, "sampling", json_string(sampling_names[params->sampling]));
    for (int i = 0; i < PARAM_INTS; i++) {
        int value;
        memcpy(&value, (const char *)params + param_ints[i].offset, sizeof value);
        json_object_set_new(object, param_ints[i].key, json_integer(value));
    }
    json_object_set_new(object, "strict_causal", json_boolean(params->strict_causal));
    json_object_set_new(object, "kappa_cap", json_real(params->kappa_cap));
    /* JSON's numbers are doubles to many readers */
    char seed[24];
    snprintf(seed, sizeof seed, "%" PRIu64, params->seed);
    json_object_set_new(object, "seed", json_string(seed));
    return object;
}

/* ---- problem -------------------------------------------------------------------------------- */

enum {
    KEY_CAUSAL = OPTION_PROBLEM,
    KEY_SCALE,
    KEY_THREADS,
    KEY_DTYPE
};

static const struct argp_option problem_option_list[] = {
    {NULL, 0, NULL, 0, "Problem:", 4},
    {"causal", KEY_CAUSAL, NULL, 0, "Row i sees keys up to i + key rows - query rows", 4},
    {"scale", KEY_SCALE, "X", 0, "Softmax scale, 0: 1/sqrt(dim) (0)", 4},
    {"dtype", KEY_DTYPE, "TYPE", 0, "f32, bf16 or f16", 4},
    {"threads", KEY_THREADS, "N", 0, "Threads, 0: OpenMP's default (0)", 4},
    {0}};

static error_t parse_problem(int key, char *text, struct argp_state *state)
{
    static const char *const dtypes[] = {"f32", "bf16", "f16"};
    problem_options *o = state->input;
    switch (key) {
    case KEY_CAUSAL:
        o->causal = true;
        return 0;
    case KEY_SCALE:
        o->scale = (float)parse_real(state, "--scale", text, -FLT_MAX, FLT_MAX);
        return 0;
    case KEY_THREADS:
        o->threads = (int)parse_int(state, "--threads", text, 0, 4096);
        return 0;
    case KEY_DTYPE:
        o->dtype_given = true;
        o->dtype = (hyperattn_dtype)parse_choice(state, "--dtype", text, 3, dtypes);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp problem_argp = {.options = problem_option_list, .parser = parse_problem};

/* ---- files ---------------------------------------------------------------------------------- */

static const struct argp_option files_option_list[] = {
    {NULL, 0, NULL, 0, "Input from files:", 1},
    {"q", OPTION_FILES + 0, "FILE", 0, "Queries: [[batch,] heads,] rows, dim", 1},
    {"k", OPTION_FILES + 1, "FILE", 0, "Keys: heads may be fewer, rows may differ", 1},
    {"v", OPTION_FILES + 2, "FILE", 0, "Values: heads and rows as the keys, dim may differ", 1},
    {0}};

static error_t parse_files(int key, char *text, struct argp_state *state)
{
    input_files *files = state->input;
    switch (key) {
    case OPTION_FILES + 0:
        files->q = text;
        return 0;
    case OPTION_FILES + 1:
        files->k = text;
        return 0;
    case OPTION_FILES + 2:
        files->v = text;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp files_argp = {.options = files_option_list, .parser = parse_files};

/* ---- generated input ------------------------------------------------------------------------ */

enum {
    KEY_GEN = OPTION_GEN,
    KEY_GEN_SEED,
    KEY_SHARPNESS,
    KEY_N,
    KEY_HEADS,
    KEY_KV_HEADS,
    KEY_DIM
};

static const char *const gen_names[] = {"gauss", "clustered", "llm"};

const char *gen_name(gen_kind kind)
{
    return gen_names[kind];
}

static const struct argp_option gen_option_list[] = {
    {NULL, 0, NULL, 0, "Generated input:", 2},
    {"gen", KEY_GEN, "KIND", 0,
     "gauss: independent normals; clustered: 64 centres shared by queries and keys; llm: offsets, "
     "outlier channels, a sink and rotary locality (compare: clustered; sweep: gauss)", 2},
    {"heads", KEY_HEADS, "N", 0, "Query heads (compare: 4; sweep: 12)", 2},
    {"kv-heads", KEY_KV_HEADS, "N", 0, "Key and value heads, a divisor of --heads (all)", 2},
    {"dim", KEY_DIM, "N", 0, "Head dimension (64)", 2},
    {"sharpness", KEY_SHARPNESS, "X", 0, "Factor on the queries (1)", 2},
    {"gen-seed", KEY_GEN_SEED, "N", 0, "Seed of the generator (1)", 2},
    {NULL, 0, NULL, 0, "Lengths:", 3},
    {"n", KEY_N, "LIST", 0,
     "Sequence lengths, ascending: numbers and doubling ranges A:B separated by commas, such as "
     "4096:131072 or 4k:128k,200k (k = 1024, m = 1048576)", 3},
    {0}};

void gen_defaults(gen_options *options, gen_kind kind, int64_t heads)
{
    *options = (gen_options){
        .spec = {.kind = kind, .seed = 1, .sharpness = 1, .heads = heads, .dim = 64}};
}

void gen_default_lengths(gen_options *options, int64_t first, int64_t last)
{
    length_list *list = &options->lengths;
    for (int64_t n = first; list->count < MAX_LENGTHS && n <= last; n *= 2)
        list->n[list->count++] = n;
}

static error_t parse_gen(int key, char *text, struct argp_state *state)
{
    gen_options *o = state->input;
    gen_spec *spec = &o->spec;
    o->given |= key >= KEY_GEN && key <= KEY_DIM && key != KEY_N;
    switch (key) {
    case KEY_GEN:
        spec->kind = (gen_kind)parse_choice(state, "--gen", text, 3, gen_names);
        return 0;
    case KEY_GEN_SEED:
        spec->seed = parse_seed(state, "--gen-seed", text);
        return 0;
    case KEY_SHARPNESS:
        spec->sharpness = parse_real(state, "--sharpness", text, 0, 1e6);
        return 0;
    case KEY_N:
        parse_lengths(state, text, &o->lengths);
        return 0;
    case KEY_HEADS:
        spec->heads = parse_int(state, "--heads", text, 1, 65536);
        return 0;
    case KEY_KV_HEADS:
        spec->heads_kv = parse_int(state, "--kv-heads", text, 1, 65536);
        return 0;
    case KEY_DIM:
        spec->dim = parse_int(state, "--dim", text, 1, GEN_MAX_DIM);
        return 0;
    case ARGP_KEY_END:
        if (spec->heads_kv == 0)
            spec->heads_kv = spec->heads;
        if (spec->heads % spec->heads_kv != 0)
            argp_error(state, "--kv-heads %" PRId64 ": no divisor of the %" PRId64 " heads",
                       spec->heads_kv, spec->heads);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp gen_argp = {.options = gen_option_list, .parser = parse_gen};

void parse_arguments(const struct argp *argp, int argc, char **argv, void *options)
{
    error_t error = argp_parse(argp, argc, argv, 0, NULL, options);
    if (error) { /* only a lack of memory comes back */
        fprintf(stderr, "%s: %s\n", argv[0], strerror(error));
        exit(1);
    }
}
