/* SPDX-License-Identifier: Apache-2.0
 *
 * The options that set the fields of hyperattn_params.
 */
#include "options.h"

#include <float.h>
#include <inttypes.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "values.h"

static const struct {
    const char *option, *key;
    size_t offset;
    unsigned min, max;
    bool shared; /* with multipole */
} param_ints[PARAM_INTS] = {
    {"--projections", "lsh_num_projs", offsetof(hyperattn_params, lsh_num_projs), 1, 16, false},
    {"--block", "block_size", offsetof(hyperattn_params, block_size), 1, INT_MAX, false},
    {"--sample", "sample_size", offsetof(hyperattn_params, sample_size), 0, INT_MAX, false},
    {"--leaf", "min_seq_len", offsetof(hyperattn_params, min_seq_len), 1, INT_MAX, false},
    {"--sinks", "num_sinks", offsetof(hyperattn_params, num_sinks), 0, INT_MAX, true},
    {"--window", "window", offsetof(hyperattn_params, window), 0, INT_MAX, true},
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
    o->given |= key >= OPTION_PARAMS && key <= KEY_PAPER;
    if (index >= 0 && index < PARAM_INTS) {
        o->int_given[index] = true;
        o->value[index] = (int)parse_whole(state, param_ints[index].option, text,
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
        o->seed = parse_whole(state, "--seed", text, 0, UINT64_MAX);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp params_argp = {.options = params_option_list, .parser = parse_params};

bool params_are_hypers(const params_options *o)
{
    bool any = o->paper || o->heavy_given || o->sampling_given || o->kappa_given;
    for (int i = 0; i < PARAM_INTS; i++)
        any |= o->int_given[i] && !param_ints[i].shared;
    return any;
}

void params_resolve(hyperattn_params *params, const params_options *o)
{
    if (o->paper)
        hyperattn_params_paper(params);
    else
        hyperattn_params_init(params);
    for (int i = 0; i < PARAM_INTS; i++) {
        if (o->int_given[i])
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
    json_object_set_new(object, "target_error", json_real(params->target_error));
    /* JSON's numbers are doubles to many readers */
    char seed[24];
    snprintf(seed, sizeof seed, "%" PRIu64, params->seed);
    json_object_set_new(object, "seed", json_string(seed));
    return object;
}
