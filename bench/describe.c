/* SPDX-License-Identifier: Apache-2.0 */
#include "describe.h"

#include <inttypes.h>
#include <stdio.h>

#include "convert.h"
#include "internals.h"

void describe_line(char *text, size_t size, const measurement *m)
{
    char heads[32] = "", dim[48];
    const tensor *q = &m->in.q, *k = &m->in.k, *v = &m->in.v;
    const measure_options *o = m->options;
    int threads = context_threads(m->ctx);
    if (k->heads != q->heads)
        snprintf(heads, sizeof heads, " (%" PRId64 " of keys)", k->heads);
    snprintf(dim, sizeof dim, "dim %" PRId64, q->dim);
    if (v->dim != q->dim)
        snprintf(dim, sizeof dim, "dim %" PRId64 " (%" PRId64 " of values)", q->dim, v->dim);
    snprintf(text, size, "%s input, %" PRId64 " head%s%s, %s, %s; %s, %d thread%s",
             o->files.q ? ".npy" : gen_name(o->gen.spec.kind), q->batch * q->heads,
             q->batch * q->heads == 1 ? "" : "s", heads, dim, dtype_name(q->dtype),
             hyperattn_ctx_isa(m->ctx), threads, threads == 1 ? "" : "s");
}

void describe_heads(char *text, size_t size, const measurement *m, int folders, int64_t heads)
{
    int threads = context_threads(m->ctx);
    snprintf(text, size, "%d folder%s of .npy input, %" PRId64 " heads, %s; %s, %d thread%s",
             folders, folders == 1 ? "" : "s", heads, dtype_name(m->in.q.dtype),
             hyperattn_ctx_isa(m->ctx), threads, threads == 1 ? "" : "s");
}

static json_t *input_json(const measurement *m)
{
    const input_files *files = &m->options->files;
    const gen_spec *spec = &m->options->gen.spec;
    json_t *object = json_object();
    if (m->options->heads_dir) {
        json_object_set_new(object, "heads_dir", json_string(m->options->heads_dir));
        return object;
    }
    if (files->q) {
        json_object_set_new(object, "q", json_string(files->q));
        json_object_set_new(object, "k", json_string(files->k));
        json_object_set_new(object, "v", json_string(files->v));
        return object;
    }
    char seed[24];
    snprintf(seed, sizeof seed, "%" PRIu64, spec->seed);
    json_object_set_new(object, "gen", json_string(gen_name(spec->kind)));
    json_object_set_new(object, "gen_seed", json_string(seed));
    json_object_set_new(object, "sharpness", json_real(spec->sharpness));
    return object;
}

static void add_shape(json_t *root, const measurement *m)
{
    json_object_set_new(root, "batch", json_integer(m->in.q.batch));
    json_object_set_new(root, "heads", json_integer(m->in.q.heads));
    json_object_set_new(root, "kv_heads", json_integer(m->in.k.heads));
    json_object_set_new(root, "dim", json_integer(m->in.q.dim));
    json_object_set_new(root, "dim_v", json_integer(m->in.v.dim));
}

json_t *describe_json(const measurement *m)
{
    json_t *root = json_object();
    json_object_set_new(root, "command", json_string(m->command));
    json_object_set_new(root, "version", json_string(hyperattn_version()));
    json_object_set_new(root, "backend", json_string(hyperattn_ctx_backend(m->ctx)));
    json_object_set_new(root, "level", json_string(hyperattn_ctx_isa(m->ctx)));
    json_object_set_new(root, "threads", json_integer(context_threads(m->ctx)));
    json_object_set_new(root, "input", input_json(m));
    if (!m->options->heads_dir)
        add_shape(root, m);
    json_object_set_new(root, "dtype", json_string(dtype_name(m->in.q.dtype)));
    json_object_set_new(root, "softmax_scale", json_real(m->options->problem.scale));
    json_object_set_new(root, "params", params_json(&m->params));
    json_object_set_new(root, "repeat", json_integer(m->options->repeat));
    return root;
}
