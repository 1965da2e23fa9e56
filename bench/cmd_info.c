/* SPDX-License-Identifier: Apache-2.0
 *
 * hyperattn info: what this build and this machine can do.
 */
#include "config.h"

#include <argp.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "attn.h"
#include "baseline.h"
#include "commands.h"
#include "context.h"
#include "env.h"
#include "hyperattn.h"
#include "kernels.h"
#include "message.h"
#include "options.h"

static const bool built_in[HA_LEVELS] = {
    [HA_LEVEL_REF] = true,
#ifdef HA_HAVE_AVX2
    [HA_LEVEL_AVX2] = true,
#endif
#ifdef HA_HAVE_AVX512
    [HA_LEVEL_AVX512] = true,
#endif
#ifdef HA_HAVE_AVX512BF16
    [HA_LEVEL_AVX512BF16] = true,
#endif
#ifdef HA_HAVE_NEON
    [HA_LEVEL_NEON] = true,
#endif
#ifdef HA_HAVE_NEONBF16
    [HA_LEVEL_NEONBF16] = true,
#endif
};

static const char *const variables[] = {HA_ENV_CPU, HA_ENV_BACKEND, HA_ENV_LOG, "OMP_NUM_THREADS"};

enum { VARIABLES = sizeof variables / sizeof variables[0] };

static void print_text(const hyperattn_ctx *ctx)
{
    const char *reason = hyperattn_ctx_reason(ctx);
    printf("version    %s\n", hyperattn_version());
    printf("backends   cpu\n");
    printf("backend    %s\n", hyperattn_ctx_backend(ctx));
    printf("built in  ");
    for (int l = 0; l < HA_LEVELS; l++)
        if (built_in[l])
            printf(" %s", ha_level_name((ha_level)l));
    printf("\navailable ");
    for (int l = 0; l < HA_LEVELS; l++)
        if (ha_kernels_at((ha_level)l))
            printf(" %s", ha_level_name((ha_level)l));
    printf("\nlevel      %s%s%s%s\n", hyperattn_ctx_isa(ctx), *reason ? " (" : "", reason,
           *reason ? ")" : "");
    printf("threads    %d\n", ctx->device.nthreads);
    if (baseline_built_in())
        printf("OpenBLAS   %s, %s\n", baseline_config(), baseline_parallel());
    else
        printf("OpenBLAS   not built in\n");
    for (int v = 0; v < VARIABLES; v++) {
        const char *value = getenv(variables[v]);
        printf("%-18s %s\n", variables[v], value ? value : "not set");
    }
}

static json_t *text_or_null(const char *text)
{
    return text ? json_string(text) : json_null();
}

static json_t *make_json(const hyperattn_ctx *ctx)
{
    json_t *levels = json_array(), *environment = json_object();
    for (int l = 0; l < HA_LEVELS; l++) {
        json_t *level = json_object();
        json_object_set_new(level, "name", json_string(ha_level_name((ha_level)l)));
        json_object_set_new(level, "built_in", json_boolean(built_in[l]));
        json_object_set_new(level, "available", json_boolean(ha_kernels_at((ha_level)l) != NULL));
        json_array_append_new(levels, level);
    }
    for (int v = 0; v < VARIABLES; v++)
        json_object_set_new(environment, variables[v], text_or_null(getenv(variables[v])));
    json_t *root = json_object(), *openblas = json_object();
    json_object_set_new(openblas, "built_in", json_boolean(baseline_built_in()));
    json_object_set_new(openblas, "config", text_or_null(baseline_config()));
    json_object_set_new(openblas, "parallel", text_or_null(baseline_parallel()));
    json_object_set_new(root, "version", json_string(hyperattn_version()));
    json_object_set_new(root, "backends", json_pack("[s]", "cpu"));
    json_object_set_new(root, "backend", json_string(hyperattn_ctx_backend(ctx)));
    json_object_set_new(root, "levels", levels);
    json_object_set_new(root, "level", json_string(hyperattn_ctx_isa(ctx)));
    json_object_set_new(root, "reason", json_string(hyperattn_ctx_reason(ctx)));
    json_object_set_new(root, "threads", json_integer(ctx->device.nthreads));
    json_object_set_new(root, "openblas", openblas);
    json_object_set_new(root, "environment", environment);
    return root;
}

enum { KEY_JSON = OPTION_COMMAND };

static error_t parse_info(int key, char *text, struct argp_state *state)
{
    bool *json = state->input;
    (void)text;
    if (key != KEY_JSON)
        return ARGP_ERR_UNKNOWN;
    *json = true;
    return 0;
}

int cmd_info(int argc, char **argv)
{
    static const struct argp_option options[] = {
        {"json", KEY_JSON, NULL, 0, "Print a JSON object", 0}, {0}};
    static const struct argp parser = {
        .options = options,
        .parser = parse_info,
        .doc = "Print the version, the backends, the instruction-set levels that are built in, "
               "available on this processor and chosen (with the reason why no better one is), the "
               "number of threads, OpenBLAS, and the environment variables that matter."};
    bool json = false;
    parse_arguments(&parser, argc, argv, &json);
    hyperattn_ctx *ctx;
    int status = attn_context(&ctx, 0);
    if (status)
        return status;
    if (json) {
        json_t *root = make_json(ctx);
        json_dumpf(root, stdout, JSON_INDENT(2));
        putchar('\n');
        json_decref(root);
    } else {
        print_text(ctx);
    }
    hyperattn_ctx_destroy(ctx);
    if (fflush(stdout) || ferror(stdout))
        return failed("writing to standard output failed");
    return STATUS_OK;
}
