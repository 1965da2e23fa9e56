/* SPDX-License-Identifier: Apache-2.0 */
#include "input.h"

#include <inttypes.h>
#include <stdlib.h>

#include "convert.h"
#include "memory.h"
#include "message.h"
#include "npy.h"
#include "progress.h"

static bool tensor_bytes(const tensor *t, size_t *bytes)
{
    int64_t factors[] = {t->batch, t->heads, t->rows, t->dim, (int64_t)dtype_size(t->dtype)};
    return size_product(bytes, 5, factors);
}

static int tensor_alloc(tensor *t, const char *name)
{
    size_t bytes;
    if (!tensor_bytes(t, &bytes))
        return bad_input("%s: its size exceeds the address space", name);
    t->data = buffer_alloc(bytes, name);
    return t->data ? STATUS_OK : STATUS_FAILED;
}

static int64_t elements(const tensor *t)
{
    return t->batch * t->heads * t->rows * t->dim;
}

/* Replaces the data by a copy of type dtype. */
static int tensor_convert(tensor *t, hyperattn_dtype dtype, const char *name)
{
    if (t->dtype == dtype)
        return STATUS_OK;
    tensor other = *t;
    other.dtype = dtype;
    other.data = NULL;
    float *row = buffer_alloc((size_t)t->dim * sizeof *row, name);
    int status = row ? tensor_alloc(&other, name) : STATUS_FAILED;
    for (int64_t i = 0; status == STATUS_OK && i < elements(t); i += t->dim) {
        const char *src = (const char *)t->data + (size_t)i * dtype_size(t->dtype);
        to_f32(row, src, t->dtype, t->dim);
        from_f32((char *)other.data + (size_t)i * dtype_size(dtype), dtype, row, t->dim);
    }
    buffer_free(row);
    if (status)
        return status;
    buffer_free(t->data);
    *t = other;
    return STATUS_OK;
}

/* ---- .npy ----------------------------------------------------------------------------------- */

static int check_shape(const npy_info *info, const char *path)
{
    if (info->rank < 2 || info->rank > 4)
        return bad_input("%s: has %d dimensions, need [rows, dim], [heads, rows, dim] or "
                         "[batch, heads, rows, dim]", path, info->rank);
    for (int i = 0; i < info->rank; i++) {
        if (info->shape[i] == 0)
            return bad_input("%s: dimension %d of its shape is 0", path, i);
    }
    return STATUS_OK;
}

static int choose_dtype(hyperattn_dtype *dtype, const npy_info *info, const char *path,
                        const input_dtype *type)
{
    static const hyperattn_dtype meaning[] = {
        [NPY_F32] = HYPERATTN_F32, [NPY_F16] = HYPERATTN_F16, [NPY_U16] = HYPERATTN_BF16};
    *dtype = meaning[info->type];
    if (info->type == NPY_U16 && !type->given)
        return bad_input("%s: holds uint16: if these are bf16 values, say --dtype bf16", path);
    if (type->given && !type->convert && *dtype != type->dtype)
        return bad_input("%s: holds %s, but --dtype is %s", path, npy_type_name(info->type),
                         dtype_name(type->dtype));
    return STATUS_OK;
}

static int load_tensor(tensor *t, int *rank, const char *path, const input_dtype *type)
{
    char why[NPY_WHY];
    npy_info info;
    progress("reading %s", path);
    if (!npy_read(path, &info, &t->data, why))
        return bad_input("%s: %s", path, why);
    int status = check_shape(&info, path);
    if (status == STATUS_OK)
        status = choose_dtype(&t->dtype, &info, path, type);
    if (status)
        return status;
    *rank = info.rank;
    const int64_t *last = info.shape + info.rank;
    t->dim = last[-1];
    t->rows = last[-2];
    t->heads = info.rank > 2 ? last[-3] : 1;
    t->batch = info.rank > 3 ? last[-4] : 1;
    return STATUS_OK;
}

static int same(const char *what, const char *path_a, int64_t a, const char *path_b, int64_t b)
{
    if (a == b)
        return STATUS_OK;
    return bad_input("%s: its %s is %" PRId64 ", but that of %s is %" PRId64, path_b, what, b,
                     path_a, a);
}

typedef struct match_rule {
    const char *what, *path_a, *path_b;
    int64_t a, b;
} match_rule;

static int check_rules(const match_rule *rules, size_t count)
{
    int status = STATUS_OK;
    for (size_t i = 0; i < count && status == STATUS_OK; i++)
        status = same(rules[i].what, rules[i].path_a, rules[i].a, rules[i].path_b, rules[i].b);
    return status;
}

static int check_match(const input *in, const input_files *files, const int *rank)
{
    const tensor *q = &in->q, *k = &in->k, *v = &in->v;
    const match_rule rules[] = {
        {"number of dimensions", files->q, files->k, rank[0], rank[1]},
        {"number of dimensions", files->q, files->v, rank[0], rank[2]},
        {"dtype", files->q, files->k, (int64_t)q->dtype, (int64_t)k->dtype},
        {"dtype", files->q, files->v, (int64_t)q->dtype, (int64_t)v->dtype},
        {"batch size", files->q, files->k, q->batch, k->batch},
        {"batch size", files->q, files->v, q->batch, v->batch},
        {"last dimension", files->q, files->k, q->dim, k->dim},
        {"number of heads", files->k, files->v, k->heads, v->heads},
        {"number of rows", files->k, files->v, k->rows, v->rows},
    };
    int status = check_rules(rules, sizeof rules / sizeof rules[0]);
    if (status == STATUS_OK && q->heads % k->heads != 0)
        status = bad_input("%s: its number of heads, %" PRId64 ", is no multiple of the %" PRId64
                           " heads of %s", files->q, q->heads, k->heads, files->k);
    return status;
}

static int load_dout(input *in, const input_files *files, const input_dtype *type)
{
    int rank;
    int status = load_tensor(&in->dout, &rank, files->dout, type);
    if (status)
        return status;
    const tensor *q = &in->q, *dout = &in->dout;
    const match_rule rules[] = {
        {"number of dimensions", files->q, files->dout, in->rank, rank},
        {"dtype", files->q, files->dout, (int64_t)q->dtype, (int64_t)dout->dtype},
        {"batch size", files->q, files->dout, q->batch, dout->batch},
        {"number of heads", files->q, files->dout, q->heads, dout->heads},
        {"number of rows", files->q, files->dout, q->rows, dout->rows},
        {"last dimension", files->v, files->dout, in->v.dim, dout->dim},
    };
    return check_rules(rules, sizeof rules / sizeof rules[0]);
}

int input_load(input *in, const input_files *files, const input_dtype *type)
{
    *in = (input){0};
    const char *paths[4] = {files->q, files->k, files->v, files->dout};
    tensor *tensors[4] = {&in->q, &in->k, &in->v, &in->dout};
    int rank[3] = {0}, status = STATUS_OK, count = files->dout ? 4 : 3;
    for (int i = 0; i < 3 && status == STATUS_OK; i++)
        status = load_tensor(tensors[i], &rank[i], paths[i], type);
    if (status == STATUS_OK)
        status = check_match(in, files, rank);
    in->rank = rank[0];
    in->same_rows = in->q.rows == in->k.rows;
    if (status == STATUS_OK && files->dout)
        status = load_dout(in, files, type);
    for (int i = 0; i < count && status == STATUS_OK && type->given; i++)
        status = tensor_convert(tensors[i], type->dtype, paths[i]);
    progress_clear();
    return status;
}

/* ---- generated ------------------------------------------------------------------------------ */

int input_generate(input *in, const gen_spec *spec, int64_t rows, hyperattn_dtype dtype)
{
    *in = (input){
        .q = {.dtype = dtype, .batch = 1, .heads = spec->heads, .rows = rows, .dim = spec->dim},
        .k = {.dtype = dtype, .batch = 1, .heads = spec->heads_kv, .rows = rows, .dim = spec->dim},
        .rank = 3,
        .same_rows = true,
    };
    in->v = in->k;
    tensor *tensors[3] = {&in->q, &in->k, &in->v};
    size_t bytes, total = 0;
    for (int i = 0; i < 3; i++) {
        if (!tensor_bytes(tensors[i], &bytes) || __builtin_add_overflow(total, bytes, &total))
            return bad_input("generated input: its size exceeds the address space");
    }
    if (!memory_fits(total, "generated input"))
        return STATUS_FAILED;
    progress("generating %" PRId64 " rows", rows);
    for (int i = 0; i < 3; i++) {
        int status = tensor_alloc(tensors[i], "generated input");
        if (status)
            return status;
        if (gen_fill(spec, (gen_tensor)i, rows, dtype, tensors[i]->data))
            return failed("generated input: out of memory");
    }
    progress_clear();
    return STATUS_OK;
}

void input_free(input *in)
{
    buffer_free(in->q.data);
    buffer_free(in->k.data);
    buffer_free(in->v.data);
    buffer_free(in->dout.data);
    *in = (input){0};
}

int input_generate_dout(input *in, const gen_spec *spec, int64_t rows)
{
    tensor *t = &in->dout;
    buffer_free(t->data);
    *t = in->q;
    t->rows = rows;
    t->dim = in->v.dim;
    t->data = NULL;
    int status = tensor_alloc(t, "gradient of the output");
    if (status)
        return status;
    gen_spec shape = *spec;
    shape.heads = shape.heads_kv = t->batch * t->heads;
    shape.dim = t->dim;
    if (gen_fill(&shape, GEN_DOUT, rows, t->dtype, t->data))
        return failed("gradient of the output: out of memory");
    return STATUS_OK;
}

static int tensor_copy_f32(tensor *copy, const tensor *t)
{
    *copy = *t;
    copy->dtype = HYPERATTN_F32;
    copy->data = NULL;
    int status = tensor_alloc(copy, "f32 copy of the input");
    if (status == STATUS_OK)
        to_f32(copy->data, t->data, t->dtype, elements(t));
    return status;
}

int input_copy_f32(input *copy, const input *in)
{
    *copy = (input){.rank = in->rank, .same_rows = in->same_rows};
    int status = tensor_copy_f32(&copy->q, &in->q);
    if (status == STATUS_OK)
        status = tensor_copy_f32(&copy->k, &in->k);
    if (status == STATUS_OK)
        status = tensor_copy_f32(&copy->v, &in->v);
    return status;
}

int input_copy_dout_f32(input *copy, const input *in)
{
    buffer_free(copy->dout.data);
    return tensor_copy_f32(&copy->dout, &in->dout);
}

/* ---- problems ------------------------------------------------------------------------------- */

static void set_strides(int64_t stride[3], const tensor *t)
{
    stride[0] = t->heads * t->rows * t->dim;
    stride[1] = t->rows * t->dim;
    stride[2] = t->dim;
}

void input_problem(hyperattn_problem *problem, const input *in, int64_t rows, int64_t heads)
{
    hyperattn_problem_init(problem);
    problem->batch = in->q.batch;
    problem->nheads = heads ? heads : in->q.heads;
    /* the key heads that serve them */
    int64_t group = in->q.heads / in->k.heads;
    problem->nheads_kv = (problem->nheads + group - 1) / group;
    problem->seqlen_q = rows ? rows : in->q.rows;
    problem->seqlen_k = rows ? rows : in->k.rows;
    problem->head_dim = in->q.dim;
    problem->head_dim_v = in->v.dim;
    problem->dtype = in->q.dtype;
    set_strides(problem->q_stride, &in->q);
    set_strides(problem->k_stride, &in->k);
    set_strides(problem->v_stride, &in->v);
    /* out is written packed */
    problem->out_stride[2] = problem->head_dim_v;
    problem->out_stride[1] = problem->seqlen_q * problem->out_stride[2];
    problem->out_stride[0] = problem->nheads * problem->out_stride[1];
}

int64_t input_elements(const hyperattn_problem *p)
{
    int64_t queries = p->nheads * p->seqlen_q * p->head_dim;
    int64_t keys = p->nheads_kv * p->seqlen_k * (p->head_dim + p->head_dim_v);
    return p->batch * (queries + keys);
}

double input_pairs(const hyperattn_problem *p)
{
    double pairs = (double)p->batch * (double)p->nheads * (double)p->seqlen_q * (double)p->seqlen_k;
    return p->causal ? pairs / 2 : pairs;
}
