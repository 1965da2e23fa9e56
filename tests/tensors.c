/* SPDX-License-Identifier: Apache-2.0 */
#include "tensors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const operand_names[] = {"q", "k", "v", "out"};

hyperattn_problem problem_of(int64_t nheads, int64_t seqlen, int64_t head_dim)
{
    hyperattn_problem p;
    hyperattn_problem_init(&p);
    p.nheads = nheads;
    p.seqlen_q = seqlen;
    p.head_dim = head_dim;
    return p;
}

/* ---- shapes -------------------------------------------------------------------------------- */

static const int64_t *cu_seqlens(const tensors *t, operand which)
{
    return which == T_Q || which == T_OUT ? t->full.cu_seqlens_q : t->full.cu_seqlens_k;
}

static const int64_t *stride_of(const hyperattn_problem *p, operand which)
{
    const int64_t *all[] = {p->q_stride, p->k_stride, p->v_stride, p->out_stride};
    return all[which];
}

int64_t tensors_nrows(const tensors *t, operand which, int64_t b)
{
    const int64_t *cu = cu_seqlens(t, which);
    if (cu)
        return cu[b + 1] - cu[b];
    return which == T_Q || which == T_OUT ? t->full.seqlen_q : t->full.seqlen_k;
}

int64_t tensors_dim(const tensors *t, operand which)
{
    return which == T_Q || which == T_K ? t->full.head_dim : t->full.head_dim_v;
}

int64_t tensors_heads(const tensors *t, operand which)
{
    return which == T_Q || which == T_OUT ? t->full.nheads : t->full.nheads_kv;
}

/* Rows of a head in all: of the one sequence, or of the ragged batch. */
static int64_t rows_in_array(const tensors *t, operand which)
{
    const int64_t *cu = cu_seqlens(t, which);
    return cu ? cu[t->full.batch] : tensors_nrows(t, which, 0);
}

static void spell_out(tensors *t)
{
    hyperattn_problem *p = &t->full;
    *p = t->problem;
    if (p->nheads_kv == 0)
        p->nheads_kv = p->nheads;
    if (p->seqlen_k == 0)
        p->seqlen_k = p->seqlen_q;
    if (p->head_dim_v == 0)
        p->head_dim_v = p->head_dim;
    if (p->softmax_scale == 0)
        p->softmax_scale = (float)(1 / sqrt((double)p->head_dim));
    int64_t *strides[] = {p->q_stride, p->k_stride, p->v_stride, p->out_stride};
    for (int which = 0; which < OPERANDS; which++) {
        int64_t *stride = strides[which];
        if (stride[0] || stride[1] || stride[2])
            continue;
        stride[2] = tensors_dim(t, which);
        stride[1] = rows_in_array(t, which) * stride[2];
        stride[0] = tensors_heads(t, which) * stride[1];
    }
}

int64_t tensors_at(const tensors *t, operand which, int64_t b, int64_t h, int64_t i)
{
    const int64_t *cu = cu_seqlens(t, which);
    const int64_t *stride = stride_of(&t->full, which);
    if (cu)
        return h * stride[1] + (cu[b] + i) * stride[2];
    return b * stride[0] + h * stride[1] + i * stride[2];
}

int64_t tensors_row(const tensors *t, int64_t b, int64_t h, int64_t i)
{
    const int64_t *cu = t->full.cu_seqlens_q;
    if (cu)
        return h * cu[t->full.batch] + cu[b] + i;
    return (b * t->full.nheads + h) * t->full.seqlen_q + i;
}

int tensors_sees(const tensors *t, int64_t b, int64_t i, int64_t j)
{
    return !t->full.causal || j <= i + tensors_nrows(t, T_K, b) - tensors_nrows(t, T_Q, b);
}

/* ---- life ---------------------------------------------------------------------------------- */

tensors tensors_new(const hyperattn_problem *problem, placement at)
{
    tensors t = {.problem = *problem};
    spell_out(&t);
    for (int which = 0; which < OPERANDS; which++) {
        int64_t rows = rows_in_array(&t, which);
        int64_t last_b = t.full.cu_seqlens_q ? 0 : t.full.batch - 1;
        const int64_t *stride = stride_of(&t.full, which);
        int64_t last = last_b * stride[0] + (tensors_heads(&t, which) - 1) * stride[1] +
                       (rows - 1) * stride[2];
        t.elements[which] = rows > 0 ? last + tensors_dim(&t, which) : 0;
        t.mem[which] = guarded_new((size_t)t.elements[which] * dtype_size(t.full.dtype), at);
        memset(t.mem[which].data, 0, t.mem[which].size);
    }
    t.rows = t.full.nheads * rows_in_array(&t, T_Q);
    if (!t.full.cu_seqlens_q)
        t.rows *= t.full.batch;
    t.lse = guarded_new((size_t)t.rows * sizeof(float), at);
    tensors_reset(&t);
    return t;
}

void tensors_free(tensors *t)
{
    for (int which = 0; which < OPERANDS; which++)
        guarded_free(&t->mem[which]);
    guarded_free(&t->lse);
}

void tensors_reset(tensors *t)
{
    fill_signalling(t->mem[T_OUT].data, t->elements[T_OUT], t->full.dtype);
    fill_signalling(t->lse.data, t->rows, HYPERATTN_F32);
}

/* ---- elements ------------------------------------------------------------------------------ */

double tensors_get(const tensors *t, operand which, int64_t b, int64_t h, int64_t i, int64_t c)
{
    return element_get(t->mem[which].data, tensors_at(t, which, b, h, i) + c, t->full.dtype);
}

void tensors_put(tensors *t, operand which, int64_t b, int64_t h, int64_t i, int64_t c,
                 double value)
{
    element_put(t->mem[which].data, tensors_at(t, which, b, h, i) + c, t->full.dtype, value);
}

void tensors_set_row(tensors *t, operand which, int64_t b, int64_t h, int64_t i, double value)
{
    for (int64_t c = 0; c < tensors_dim(t, which); c++)
        tensors_put(t, which, b, h, i, c, value);
}

float tensors_lse(const tensors *t, int64_t b, int64_t h, int64_t i)
{
    return ((const float *)t->lse.data)[tensors_row(t, b, h, i)];
}

enum { CENTRES = 8 };

static double extreme_value(rng *r)
{
    double x = rng_gauss(r);
    switch (rng_below(r, 4)) {
    case 0:
        return 0;
    case 1:
        return x * 1e-40; /* subnormal in f32 and bf16 */
    case 2:
        return x * 100;
    default:
        return x;
    }
}

/* One q or k row; the centres depend on the seed alone, so that q and k share them. */
static void fill_row(tensors *t, operand which, int64_t at, fill kind, uint64_t seed, rng *r)
{
    rng centre = rng_new(seed ^ (uint64_t)rng_below(r, CENTRES) << 32);
    double huge = kind == FILL_EXTREME && t->full.dtype != HYPERATTN_F16 ? 1e14 : 1;
    int is_huge = rng_below(r, 8) == 0;
    for (int64_t c = 0; c < tensors_dim(t, which); c++) {
        double x = kind == FILL_EXTREME ? extreme_value(r) * (is_huge ? huge : 1) : rng_gauss(r);
        if (kind == FILL_CLUSTERED && which != T_V)
            x = 0.3 * x + 1.5 * rng_gauss(&centre);
        element_put(t->mem[which].data, at + c, t->full.dtype, x);
    }
}

void tensors_fill(tensors *t, fill kind, uint64_t seed)
{
    rng r = rng_new(seed);
    for (int which = T_Q; which <= T_V; which++) {
        fill what = which == T_V && kind == FILL_EXTREME ? FILL_GAUSS : kind;
        for (int64_t b = 0; b < t->full.batch; b++)
            for (int64_t h = 0; h < tensors_heads(t, which); h++)
                for (int64_t i = 0; i < tensors_nrows(t, which, b); i++)
                    fill_row(t, which, tensors_at(t, which, b, h, i), what, seed, &r);
    }
}

/* ---- the call ------------------------------------------------------------------------------ */

/* The gaps between rows of out must still hold what tensors_reset put there. */
static const char *check_gaps(const tensors *t)
{
    char *row = calloc((size_t)t->elements[T_OUT] + 1, 1);
    const char *why = NULL;
    for (int64_t b = 0; b < t->full.batch; b++)
        for (int64_t h = 0; h < t->full.nheads; h++)
            for (int64_t i = 0; i < tensors_nrows(t, T_OUT, b); i++)
                memset(row + tensors_at(t, T_OUT, b, h, i), 1, (size_t)t->full.head_dim_v);
    for (int64_t at = 0; at < t->elements[T_OUT] && !why; at++)
        if (!row[at] && !is_signalling(t->mem[T_OUT].data, at, t->full.dtype))
            why = failure("element %lld of out, between two rows, was written", (long long)at);
    free(row);
    return why;
}

static const char *check_bounds(const tensors *t)
{
    const char *why = NULL;
    for (int which = 0; which < OPERANDS && !why; which++)
        if ((why = guarded_check(&t->mem[which])) != NULL)
            why = failure("%s: %s", operand_names[which], why);
    if (!why && (why = guarded_check(&t->lse)) != NULL)
        why = failure("lse: %s", why);
    return why ? why : check_gaps(t);
}

const char *tensors_forward(tensors *t, hyperattn_ctx *ctx, const hyperattn_params *params)
{
    hyperattn_plan *plan;
    if (!ctx || hyperattn_plan_create(&plan, ctx, &t->problem, params) != HYPERATTN_OK)
        return failure("no plan: %s", hyperattn_last_error());
    tensors_reset(t);
    guarded workspace = guarded_workspace(hyperattn_plan_workspace(plan, 0));
    for (int which = T_Q; which <= T_V; which++)
        guarded_read_only(&t->mem[which]);
    hyperattn_status status =
        hyperattn_forward(plan, t->mem[T_Q].data, t->mem[T_K].data, t->mem[T_V].data,
                          t->mem[T_OUT].data, (float *)t->lse.data, workspace.data);
    for (int which = T_Q; which <= T_V; which++)
        guarded_writable(&t->mem[which]);
    const char *why = NULL;
    if (status != HYPERATTN_OK)
        why = failure("forward: %s", hyperattn_last_error());
    else if ((why = guarded_check(&workspace)) != NULL)
        why = failure("workspace: %s", why);
    hyperattn_plan_destroy(plan);
    guarded_free(&workspace);
    return why ? why : check_bounds(t);
}

const char *tensors_run(tensors *t, const hyperattn_params *params, const char *level,
                        int nthreads)
{
    hyperattn_ctx *ctx = ctx_at(level, nthreads);
    const char *why = tensors_forward(t, ctx, params);
    hyperattn_ctx_destroy(ctx);
    return why;
}

/* ---- bit for bit --------------------------------------------------------------------------- */

saved tensors_save(const tensors *t)
{
    saved s = {malloc(t->mem[T_OUT].size + 1), malloc(t->lse.size + 1)};
    memcpy(s.out, t->mem[T_OUT].data, t->mem[T_OUT].size);
    memcpy(s.lse, t->lse.data, t->lse.size);
    return s;
}

void saved_free(saved *s)
{
    free(s->out);
    free(s->lse);
    *s = (saved){0};
}

static const char *same_row(const tensors *t, const saved *s, int64_t b, int64_t h, int64_t i)
{
    size_t size = dtype_size(t->full.dtype);
    size_t at = (size_t)tensors_at(t, T_OUT, b, h, i) * size;
    size_t row = (size_t)tensors_row(t, b, h, i);
    if (memcmp(t->mem[T_OUT].data + at, (const char *)s->out + at,
               (size_t)t->full.head_dim_v * size) != 0)
        return failure("out of sequence %lld, head %lld, row %lld has other bits (%.9g, was %.9g)",
                       (long long)b, (long long)h, (long long)i, tensors_get(t, T_OUT, b, h, i, 0),
                       element_get(s->out, tensors_at(t, T_OUT, b, h, i), t->full.dtype));
    if (memcmp((const float *)t->lse.data + row, s->lse + row, sizeof(float)) != 0)
        return failure("lse of sequence %lld, head %lld, row %lld has other bits (%.9g, was %.9g)",
                       (long long)b, (long long)h, (long long)i, (double)tensors_lse(t, b, h, i),
                       (double)s->lse[row]);
    return NULL;
}

const char *tensors_same_bits(const tensors *t, const saved *s, int64_t rows_end)
{
    const char *why = NULL;
    for (int64_t b = 0; b < t->full.batch; b++)
        for (int64_t h = 0; h < t->full.nheads; h++)
            for (int64_t i = 0; i < tensors_nrows(t, T_OUT, b) && i < rows_end && !why; i++)
                why = same_row(t, s, b, h, i);
    return why;
}
