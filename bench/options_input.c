/* SPDX-License-Identifier: Apache-2.0
 *
 * The options that say where the input comes from: files, or a generator and lengths.
 */
#include "options.h"

#include <inttypes.h>

#include "values.h"

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

static const char *const gen_names[GEN_KINDS] = {"gauss",  "clustered", "llm",
                                                 "needle", "perm",      "needle64"};

const char *gen_name(gen_kind kind)
{
    return gen_names[kind];
}

static const struct argp_option gen_option_list[] = {
    {NULL, 0, NULL, 0, "Generated input:", 2},
    {"gen", KEY_GEN, "KIND", 0,
     "gauss: independent normals; clustered: 64 centres shared by queries and keys; llm: offsets, "
     "outlier channels, a sink and rotary locality; needle: each query wants one earlier key; "
     "perm: each key is wanted by one query; needle64: queries lean on 64 longer keys (compare: "
     "clustered; sweep: gauss)", 2},
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

int64_t longest(const length_list *lengths)
{
    return lengths->n[lengths->count - 1];
}

static void add_length(struct argp_state *state, length_list *list, uint64_t n)
{
    if (list->count == MAX_LENGTHS)
        argp_error(state, "--n: more than %d lengths", MAX_LENGTHS);
    if (list->count && (int64_t)n <= longest(list))
        argp_error(state, "--n: lengths must ascend");
    list->n[list->count++] = (int64_t)n;
}

/* LIST of --n: N or A:B, separated by commas. */
static void parse_lengths(struct argp_state *state, const char *text, length_list *list)
{
    const uint64_t most = UINT32_MAX;
    list->count = 0;
    for (const char *at = text;; at++) {
        uint64_t first = 0, last = 0;
        bool ok = read_whole(at, &first, &at);
        last = first;
        if (ok && *at == ':')
            ok = read_whole(at + 1, &last, &at);
        if (!ok || (*at && *at != ',') || first < 1 || last < first || last > most)
            argp_error(state, "--n %s: need lengths N or ranges A:B, from 1 to %" PRIu64, text,
                       most);
        for (; first <= last; first *= 2)
            add_length(state, list, first);
        if (!*at)
            return;
    }
}

static error_t parse_gen(int key, char *text, struct argp_state *state)
{
    gen_options *o = state->input;
    gen_spec *spec = &o->spec;
    o->given |= key >= KEY_GEN && key <= KEY_DIM && key != KEY_N;
    switch (key) {
    case KEY_GEN:
        spec->kind = (gen_kind)parse_choice(state, "--gen", text, GEN_KINDS, gen_names);
        return 0;
    case KEY_GEN_SEED:
        spec->seed = parse_whole(state, "--gen-seed", text, 0, UINT64_MAX);
        return 0;
    case KEY_SHARPNESS:
        spec->sharpness = parse_real(state, "--sharpness", text, 0, 1e6);
        return 0;
    case KEY_N:
        parse_lengths(state, text, &o->lengths);
        return 0;
    case KEY_HEADS:
        spec->heads = (int64_t)parse_whole(state, "--heads", text, 1, 65536);
        return 0;
    case KEY_KV_HEADS:
        spec->heads_kv = (int64_t)parse_whole(state, "--kv-heads", text, 1, 65536);
        return 0;
    case KEY_DIM:
        spec->dim = (int64_t)parse_whole(state, "--dim", text, 1, GEN_MAX_DIM);
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
