/* SPDX-License-Identifier: Apache-2.0
 *
 * hyperattn run: attention of .npy files, and its gradients, written as .npy files.
 */
#include <argp.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "attn.h"
#include "commands.h"
#include "input.h"
#include "message.h"
#include "npy.h"
#include "options.h"
#include "outfile.h"
#include "progress.h"
#include "values.h"

typedef enum output {
    OUT,
    LSE,
    DQ,
    DK,
    DV,
    OUTPUTS
} output;

typedef struct run_options {
    params_options params;
    problem_options problem;
    input_files files;
    method_options method;
    output_option outputs[OUTPUTS];
} run_options;

enum {
    KEY_OUTPUT = OPTION_COMMAND, /* the keys from here on count through the outputs */
    KEY_DOUT = KEY_OUTPUT + OUTPUTS
};

static const struct argp_option option_list[] = {
    {"dout", KEY_DOUT, "FILE", 0,
     "Gradient of a loss by the output, with its shape: compute those by q, k and v too", 1},
    {NULL, 0, NULL, 0, "Output and method:", 2},
    {"out", KEY_OUTPUT + OUT, "FILE", 0,
     "Output, [[batch,] heads,] query rows, value dim; same type", 2},
    {"lse", KEY_OUTPUT + LSE, "FILE", 0,
     "Log-sum-exp of each row, f32, [[batch,] heads,] query rows", 2},
    {"dq", KEY_OUTPUT + DQ, "FILE", 0, "With --dout: gradient by the queries, as --q", 2},
    {"dk", KEY_OUTPUT + DK, "FILE", 0, "With --dout: gradient by the keys, as --k", 2},
    {"dv", KEY_OUTPUT + DV, "FILE", 0, "With --dout: gradient by the values, as --v", 2},
    {0}};

static void check_options(struct argp_state *state, const run_options *o)
{
    const output_option *out = o->outputs;
    bool gradients_named = out[DQ].path || out[DK].path || out[DV].path;
    bool approximates = o->method.method == HYPERATTN_AUTO
                            ? o->method.target_error > 0
                            : o->method.method != HYPERATTN_EXACT;
    if (!o->files.q || !o->files.k || !o->files.v)
        argp_error(state, "--q, --k and --v are required");
    if (!o->files.dout && !out[OUT].path)
        argp_error(state, "--out is required");
    if (!o->files.dout && gradients_named)
        argp_error(state, "--dq, --dk and --dv need --dout");
    if (o->files.dout && !gradients_named)
        argp_error(state, "--dout needs --dq, --dk or --dv");
    if (o->params.given && !approximates)
        argp_error(state, "HyperAttention's options need --method hyper, or another that "
                          "approximates");
    refuse_unread(state, &o->params, &o->method);
    refuse_same_outputs(state, out, OUTPUTS);
}

static error_t parse_run(int key, char *text, struct argp_state *state)
{
    run_options *o = state->input;
    if (key >= KEY_OUTPUT && key < KEY_OUTPUT + OUTPUTS) {
        o->outputs[key - KEY_OUTPUT].path = text;
        return 0;
    }
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->files;
        state->child_inputs[1] = &o->problem;
        state->child_inputs[2] = &o->params;
        state->child_inputs[3] = &o->method;
        return 0;
    case KEY_DOUT:
        o->files.dout = text;
        return 0;
    case ARGP_KEY_END:
        if (o->params.paper && !o->method.given)
            o->method.method = HYPERATTN_HYPER;
        check_options(state, o);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = {
    {&files_argp, 0, NULL, 0}, {&problem_argp, 0, NULL, 0}, {&params_argp, 0, NULL, 0},
    {&method_argp, 0, NULL, 0}, {0}};

static const struct argp parser = {
    .options = option_list,
    .parser = parse_run,
    .children = children,
    .doc = "Compute attention of the queries, keys and values in three .npy files, and its "
           "gradients by them.\v"
           "An approximation is made only if one is asked for: the method is auto, with --paper "
           "hyper. "
           "The files are C-order arrays of float32, float16 or, with --dtype bf16, uint16 that "
           "holds bf16; all have the same type and number of dimensions. The type is that "
           "of --q unless --dtype says what it must be. Outputs are written to a temporary file "
           "beside the target and renamed when complete."};

/* ---- running -------------------------------------------------------------------------------- */

typedef struct result {
    hyperattn_problem problem;
    outcome outcome;
} result;

static int open_result(result *res, const run_options *o, const input *in)
{
    hyperattn_problem *p = &res->problem;
    bool backward = in->dout.data != NULL;
    input_problem(p, in, 0, 0);
    p->causal = o->problem.causal;
    p->softmax_scale = o->problem.scale;
    return outcome_open(&res->outcome, p, backward || o->outputs[LSE].path, backward);
}

static int compute(result *res, const run_options *o, const input *in)
{
    hyperattn_params params;
    params_resolve(&params, &o->params);
    method_resolve(&params, &o->method);
    hyperattn_ctx *ctx;
    int status = attn_context(&ctx, o->problem.threads);
    if (status)
        return status;
    attn call;
    status = attn_open(&call, ctx, &res->problem, &params, in, &res->outcome);
    progress("computing");
    if (status == STATUS_OK)
        status = attn_run(&call, 0);
    if (status == STATUS_OK && in->dout.data)
        status = attn_backward(&call, 0);
    progress_clear();
    attn_close(&call);
    hyperattn_ctx_destroy(ctx);
    return status;
}

/* ---- writing -------------------------------------------------------------------------------- */

/* An output before it is written: the last rank of its four sizes are the file's. */
typedef struct array {
    npy_type type;
    int rank;
    int64_t shape[4];
    const void *data;
} array;

static array gradient_array(const tensor *t, npy_type type, int rank, const void *data)
{
    return (array){type, rank, {t->batch, t->heads, t->rows, t->dim}, data};
}

static void make_arrays(array arrays[OUTPUTS], const result *res, const input *in)
{
    static const npy_type types[] = {
        [HYPERATTN_F32] = NPY_F32, [HYPERATTN_BF16] = NPY_U16, [HYPERATTN_F16] = NPY_F16};
    const hyperattn_problem *p = &res->problem;
    const gradients *g = &res->outcome.grads;
    npy_type type = types[p->dtype];
    int rank = in->rank;
    arrays[OUT] = (array){type, rank, {p->batch, p->nheads, p->seqlen_q, p->head_dim_v},
                          res->outcome.out};
    arrays[LSE] = (array){NPY_F32, rank - 1, {1, p->batch, p->nheads, p->seqlen_q},
                          res->outcome.lse};
    arrays[DQ] = gradient_array(&in->q, type, rank, g->dq);
    arrays[DK] = gradient_array(&in->k, type, rank, g->dk);
    arrays[DV] = gradient_array(&in->v, type, rank, g->dv);
}

static int write_array(outfile *file, const char *path, const array *a)
{
    int status = outfile_open(file, path);
    if (status)
        return status;
    progress("writing %s", path);
    /* flushed: a full disk must show before another file is renamed */
    if (npy_write(file->file, a->type, a->rank, a->shape + 4 - a->rank, a->data) &&
        fflush(file->file) == 0)
        return STATUS_OK;
    return failed("%s: writing failed: %s", file->target, strerror(errno));
}

/* All files are complete before the first is renamed. */
static int write_result(const result *res, const run_options *o, const input *in)
{
    array arrays[OUTPUTS];
    outfile files[OUTPUTS] = {{0}};
    int status = STATUS_OK;
    make_arrays(arrays, res, in);
    for (int i = 0; i < OUTPUTS && status == STATUS_OK; i++)
        if (o->outputs[i].path)
            status = write_array(&files[i], o->outputs[i].path, &arrays[i]);
    progress_clear();
    for (int i = 0; i < OUTPUTS && status == STATUS_OK; i++)
        if (o->outputs[i].path)
            status = outfile_commit(&files[i]);
    for (int i = 0; i < OUTPUTS; i++)
        outfile_discard(&files[i]);
    return status;
}

int cmd_run(int argc, char **argv)
{
    run_options o = {.outputs = {[OUT] = {"--out", NULL},
                                 [LSE] = {"--lse", NULL},
                                 [DQ] = {"--dq", NULL},
                                 [DK] = {"--dk", NULL},
                                 [DV] = {"--dv", NULL}}};
    parse_arguments(&parser, argc, argv, &o);
    int status = STATUS_OK;
    for (int i = 0; i < OUTPUTS && status == STATUS_OK; i++)
        status = outfile_probe(o.outputs[i].path);
    if (status)
        return status;
    input in;
    result res = {0};
    const input_dtype type = {.given = o.problem.dtype_given, .dtype = o.problem.dtype};
    status = input_load(&in, &o.files, &type);
    if (status == STATUS_OK)
        status = open_result(&res, &o, &in);
    if (status == STATUS_OK)
        status = compute(&res, &o, &in);
    if (status == STATUS_OK)
        status = write_result(&res, &o, &in);
    outcome_close(&res.outcome);
    input_free(&in);
    return status;
}
