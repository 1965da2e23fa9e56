/* SPDX-License-Identifier: Apache-2.0
 *
 * hyperattn run: attention of .npy files, written as .npy files.
 */
#include <argp.h>
#include <stdlib.h>
#include <string.h>

#include "attn.h"
#include "commands.h"
#include "convert.h"
#include "input.h"
#include "memory.h"
#include "message.h"
#include "npy.h"
#include "options.h"
#include "outfile.h"
#include "progress.h"

typedef struct run_options {
    params_options params;
    problem_options problem;
    input_files files;
    bool method_given;
    hyperattn_method method;
    const char *out, *lse;
} run_options;

enum {
    KEY_OUT = OPTION_COMMAND,
    KEY_LSE,
    KEY_METHOD
};

static const struct argp_option option_list[] = {
    {NULL, 0, NULL, 0, "Output and method:", 2},
    {"out", KEY_OUT, "FILE", 0, "Output, [[batch,] heads,] query rows, value dim; same type", 2},
    {"lse", KEY_LSE, "FILE", 0, "Log-sum-exp of each row, f32, [[batch,] heads,] query rows", 2},
    {"method", KEY_METHOD, "METHOD", 0,
     "exact, hyper, or auto: exact where it is no slower (auto; hyper with --paper)", 2},
    {0}};

static void check_required(struct argp_state *state, const run_options *o)
{
    if (!o->files.q || !o->files.k || !o->files.v)
        argp_error(state, "--q, --k and --v are required");
    if (!o->out)
        argp_error(state, "--out is required");
    if (o->lse && strcmp(o->lse, o->out) == 0)
        argp_error(state, "--lse and --out name the same file");
}

static error_t parse_run(int key, char *text, struct argp_state *state)
{
    static const char *const methods[] = {"auto", "exact", "hyper"};
    run_options *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->files;
        state->child_inputs[1] = &o->problem;
        state->child_inputs[2] = &o->params;
        return 0;
    case KEY_OUT:
        o->out = text;
        return 0;
    case KEY_LSE:
        o->lse = text;
        return 0;
    case KEY_METHOD:
        o->method_given = true;
        o->method = (hyperattn_method)parse_choice(state, "--method", text, 3, methods);
        return 0;
    case ARGP_KEY_END:
        check_required(state, o);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = {
    {&files_argp, 0, NULL, 0}, {&problem_argp, 0, NULL, 0}, {&params_argp, 0, NULL, 0}, {0}};

static const struct argp parser = {
    .options = option_list,
    .parser = parse_run,
    .children = children,
    .doc = "Compute attention of the queries, keys and values in three .npy files.\v"
           "The files are C-order arrays of float32, float16 or, with --dtype bf16, uint16 that "
           "holds bf16; all three have the same type and number of dimensions. The type is that "
           "of --q unless --dtype says what it must be. Outputs are written to a temporary file "
           "beside the target and renamed when complete."};

/* ---- running -------------------------------------------------------------------------------- */

typedef struct result {
    hyperattn_problem problem;
    void *out;
    float *lse; /* NULL unless wanted */
} result;

static int compute(result *res, const run_options *o, const input *in)
{
    hyperattn_params params;
    params_resolve(&params, &o->params);
    if (o->method_given)
        params.method = o->method;
    input_problem(&res->problem, in, 0, 0);
    res->problem.causal = o->problem.causal;
    res->problem.softmax_scale = o->problem.scale;
    const hyperattn_problem *p = &res->problem;
    res->out = buffer_alloc(attn_out_bytes(p), "output");
    if (!res->out)
        return STATUS_FAILED;
    if (o->lse) {
        size_t rows = (size_t)(p->batch * p->nheads * p->seqlen_q);
        res->lse = buffer_alloc(rows * sizeof *res->lse, "log-sum-exp");
        if (!res->lse)
            return STATUS_FAILED;
    }
    hyperattn_ctx *ctx;
    int status = attn_context(&ctx, o->problem.threads);
    if (status)
        return status;
    attn call;
    status = attn_open(&call, ctx, p, &params, in, res->out);
    call.lse = res->lse;
    if (status == STATUS_OK) {
        progress("computing");
        status = attn_run(&call);
        progress_clear();
    }
    attn_close(&call);
    hyperattn_ctx_destroy(ctx);
    return status;
}

static int write_array(outfile *file, const char *path, npy_type type, int rank,
                       const int64_t *shape, const void *data)
{
    int status = outfile_open(file, path);
    if (status)
        return status;
    progress("writing %s", path);
    if (npy_write(file->file, type, rank, shape, data))
        return STATUS_OK;
    status = failed("%s: writing failed", path);
    outfile_discard(file);
    return status;
}

/* Both files are complete before the first is renamed. */
static int write_result(const result *res, const run_options *o, int rank)
{
    static const npy_type types[] = {
        [HYPERATTN_F32] = NPY_F32, [HYPERATTN_BF16] = NPY_U16, [HYPERATTN_F16] = NPY_F16};
    const hyperattn_problem *p = &res->problem;
    const int64_t shape[4] = {p->batch, p->nheads, p->seqlen_q, p->head_dim_v};
    outfile out, lse = {0};
    int status = write_array(&out, o->out, types[p->dtype], rank, shape + 4 - rank, res->out);
    if (status)
        return status;
    if (o->lse)
        status = write_array(&lse, o->lse, NPY_F32, rank - 1, shape + 4 - rank, res->lse);
    progress_clear();
    if (status) {
        outfile_discard(&out);
        return status;
    }
    status = outfile_commit(&out);
    if (status)
        outfile_discard(&lse);
    else if (o->lse)
        status = outfile_commit(&lse);
    return status;
}

int cmd_run(int argc, char **argv)
{
    run_options o = {0};
    parse_arguments(&parser, argc, argv, &o);
    int status = outfile_probe(o.out);
    if (status == STATUS_OK)
        status = outfile_probe(o.lse);
    if (status)
        return status;
    input in;
    result res = {0};
    const input_dtype type = {.given = o.problem.dtype_given, .dtype = o.problem.dtype};
    status = input_load(&in, &o.files, &type);
    if (status == STATUS_OK)
        status = compute(&res, &o, &in);
    if (status == STATUS_OK)
        status = write_result(&res, &o, in.rank);
    buffer_free(res.out);
    buffer_free(res.lse);
    input_free(&in);
    return status;
}
