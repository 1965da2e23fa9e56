/* SPDX-License-Identifier: Apache-2.0 */
#include "describe.h"

#include <inttypes.h>
#include <stdio.h>

#include "context.h"
#include "convert.h"

void describe_line(char *text, size_t size, const setting *s)
{
    char heads[32] = "", dim[48];
    const tensor *q = &s->in->q, *k = &s->in->k, *v = &s->in->v;
    if (k->heads != q->heads)
        snprintf(heads, sizeof heads, " (%" PRId64 " of keys)", k->heads);
    snprintf(dim, sizeof dim, "dim %" PRId64, q->dim);
    if (v->dim != q->dim)
        snprintf(dim, sizeof dim, "dim %" PRId64 " (%" PRId64 " of values)", q->dim, v->dim);
    snprintf(text, size, "%s input, %" PRId64 " head%s%s, %s, %s; %s, %d thread%s",
             s->files->q ? ".npy" : gen_name(s->gen->spec.kind), q->batch * q->heads,
             q->batch * q->heads == 1 ? "" : "s", heads, dim, dtype_name(q->dtype),
             hyperattn_ctx_isa(s->ctx), s->ctx->device.nthreads,
             s->ctx->device.nthreads == 1 ? "" : "s");
}

static json_t *input_json(const setting *s)
{
    json_t *object = json_object();
    if (s->files->q) {
        json_object_set_new(object, "q", json_string(s->files->q));
        json_object_set_new(object, "k", json_string(s->files->k));
        json_object_set_new(object, "v", json_string(s->files->v));
        return object;
    }
    char seed[24];
    snprintf(seed, sizeof seed, "%" PRIu64, s->gen->spec.seed);
    json_object_set_new(object, "gen", json_string(gen_name(s->gen->spec.kind)));
    json_object_set_new(object, "gen_seed", json_string(seed));
    json_object_set_new(object, "sharpness", json_real(s->gen->spec.sharpness));
    return object;
}

json_t *describe_json(const setting *s)
{
    json_t *root = json_object();
    json_object_set_new(root, "command", json_string(s->command));
    json_object_set_new(root, "version", json_string(hyperattn_version()));
    json_object_set_new(root, "backend", json_string(hyperattn_ctx_backend(s->ctx)));
    json_object_set_new(root, "level", json_string(hyperattn_ctx_isa(s->ctx)));
    json_object_set_new(root, "threads", json_integer(s->ctx->device.nthreads));
    json_object_set_new(root, "input", input_json(s));
    json_object_set_new(root, "batch", json_integer(s->in->q.batch));
    json_object_set_new(root, "heads", json_integer(s->in->q.heads));
    json_object_set_new(root, "kv_heads", json_integer(s->in->k.heads));
    json_object_set_new(root, "dim", json_integer(s->in->q.dim));
    json_object_set_new(root, "dim_v", json_integer(s->in->v.dim));
    json_object_set_new(root, "dtype", json_string(dtype_name(s->in->q.dtype)));
    json_object_set_new(root, "softmax_scale", json_real(s->problem->scale));
    json_object_set_new(root, "params", params_json(s->params));
    json_object_set_new(root, "repeat", json_integer(s->repeat));
    return root;
}
