/* SPDX-License-Identifier: Apache-2.0 */
#include "tensors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const operand_names[] = {"q", "k", "v", "out", "dq", "dk", "dv", "dout"};

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

/* The tensor whose shape and strides a gradient has; other tensors are their own. */
static operand shape_of(operand which)
{
    return which < T_DQ ? which : (operand)(which - T_DQ);
}

static int is_of_keys(operand which)
{
    return shape_of(which) == T_K || shape_of(which) == T_V;
}

static const int64_t *cu_seqlens(const tensors *t, operand which)
{
    return is_of_keys(which) ? t->full.cu_seqlens_k : t->full.cu_seqlens_q;
}

static const int64_t *stride_of(const hyperattn_problem *p, operand which)
{
    const int64_t *all[] = {p->q_stride, p->k_stride, p->v_stride, p->out_stride};
    return all[shape_of(which)];
}

int64_t tensors_nrows(const tensors *t, operand which, int64_t b)
{
    const int64_t *cu = cu_seqlens(t, which);
    if (cu)
        return cu[b + 1] - cu[b];
    return is_of_keys(which) ? t->full.seqlen_k : t->full.seqlen_q;
}

int64_t tensors_dim(const tensors *t, operand which)
{
    operand shape = shape_of(which);
    return shape == T_Q || shape == T_K ? t->full.head_dim : t->full.head_dim_v;
}

int64_t tensors_heads(const tensors *t, operand which)
{
    return is_of_keys(which) ? t->full.nheads_kv : t->full.nheads;
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
    for (int which = T_Q; which <= T_OUT; which++) {
        int64_t *stride = strides[which];
        if (stride[0] || stride[1] || stride[2])
            continue;
        stride[2] = tensors_dim(t, (operand)which);
        stride[1] = rows_in_array(t, (operand)which) * stride[2];
        stride[0] = tensors_heads(t, (operand)which) * stride[1];
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

/* Zeros for one operand. */
static void allocate(tensors *t, operand which)
{
    int64_t rows = rows_in_array(t, which);
    int64_t last_b = t->full.cu_seqlens_q ? 0 : t->full.batch - 1;
    const int64_t *stride = stride_of(&t->full, which);
    int64_t last = last_b * stride[0] + (tensors_heads(t, which) - 1) * stride[1] +
                   (rows - 1) * stride[2];
    t->elements[which] = rows > 0 ? last + tensors_dim(t, which) : 0;
    t->mem[which] = guarded_new((size_t)t->elements[which] * dtype_size(t->full.dtype), t->at);
    memset(t->mem[which].data, 0, t->mem[which].size);
}

tensors tensors_new(const hyperattn_problem *problem, placement at)
{
    tensors t = {.problem = *problem, .at = at};
    spell_out(&t);
    for (int which = T_Q; which <= T_OUT; which++)
        allocate(&t, (operand)which);
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

void tensors_reset_gradients(tensors *t)
{
    for (int which = T_DQ; which <= T_DV; which++)
        fill_signalling(t->mem[which].data, t->elements[which], t->full.dtype);
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

void tensors_fill_dout(tensors *t, uint64_t seed)
{
    rng r = rng_new(seed ^ UINT64_C(0xD07));
    for (int which = T_DQ; which <= T_DOUT; which++)
        if (!t->mem[which].pages)
            allocate(t, (operand)which);
    for (int64_t b = 0; b < t->full.batch; b++)
        for (int64_t h = 0; h < t->full.nheads; h++)
            for (int64_t i = 0; i < tensors_nrows(t, T_DOUT, b); i++)
                fill_row(t, T_DOUT, tensors_at(t, T_DOUT, b, h, i), FILL_GAUSS, seed, &r);
    tensors_reset_gradients(t);
}

/* ---- the calls ----------------------------------------------------------------------------- */

/* Every element of the rows that a call writes must have been written, and the gaps between them
 * must still hold the signalling NaNs of tensors_reset. */
static const char *check_written(const tensors *t, operand which)
{
    char *row = calloc((size_t)t->elements[which] + 1, 1);
    const char *why = NULL;
    for (int64_t b = 0; b < t->full.batch; b++)
        for (int64_t h = 0; h < tensors_heads(t, which); h++)
            for (int64_t i = 0; i < tensors_nrows(t, which, b); i++)
                memset(row + tensors_at(t, which, b, h, i), 1, (size_t)tensors_dim(t, which));
    for (int64_t at = 0; at < t->elements[which] && !why; at++)
        if (row[at] == is_signalling(t->mem[which].data, at, t->full.dtype))
            why = failure(row[at] ? "element %lld of %s was not written"
                                  : "element %lld of %s, between two rows, was written",
                          (long long)at, operand_names[which]);
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
    return why;
}

/* A workspace that is full of NaNs. */
static guarded poisoned_workspace(const hyperattn_plan *plan, int backward)
{
    guarded workspace = guarded_workspace(hyperattn_plan_workspace(plan, backward));
    memset(workspace.data, 0xFF, workspace.size);
    return workspace;
}

/* Makes the operands that a call reads fault on a write, or undoes it. */
static void protect_inputs(const tensors *t, int backward, void (*how)(const guarded *))
{
    for (int which = T_Q; which <= (backward ? T_OUT : T_V); which++)
        how(&t->mem[which]);
    if (backward) {
        how(&t->mem[T_DOUT]);
        how(&t->lse);
    }
}

static hyperattn_status call(tensors *t, const hyperattn_plan *plan, int backward, void *workspace)
{
    guarded *m = t->mem;
    float *lse = (float *)t->lse.data;
    if (!backward)
        return hyperattn_forward(plan, m[T_Q].data, m[T_K].data, m[T_V].data, m[T_OUT].data, lse,
                                 workspace);
    return hyperattn_backward(plan, m[T_Q].data, m[T_K].data, m[T_V].data, m[T_OUT].data, lse,
                              m[T_DOUT].data, m[T_DQ].data, m[T_DK].data, m[T_DV].data, workspace);
}

static const char *run(tensors *t, hyperattn_ctx *ctx, const hyperattn_params *params, int backward)
{
    hyperattn_plan *plan;
    if (!ctx || hyperattn_plan_create(&plan, ctx, &t->problem, params) != HYPERATTN_OK)
        return failure("no plan: %s", hyperattn_last_error());
    guarded workspace = poisoned_workspace(plan, backward);
    protect_inputs(t, backward, guarded_read_only);
    hyperattn_status status = call(t, plan, backward, workspace.data);
    protect_inputs(t, backward, guarded_writable);
    const char *why = NULL;
    if (status != HYPERATTN_OK)
        why = failure("%s: %s", backward ? "backward" : "forward", hyperattn_last_error());
    else if ((why = guarded_check(&workspace)) != NULL)
        why = failure("workspace: %s", why);
    hyperattn_plan_destroy(plan);
    guarded_free(&workspace);
    return why ? why : check_bounds(t);
}

const char *tensors_forward(tensors *t, hyperattn_ctx *ctx, const hyperattn_params *params)
{
    tensors_reset(t);
    const char *why = run(t, ctx, params, 0);
    return why ? why : check_written(t, T_OUT);
}

const char *tensors_backward(tensors *t, hyperattn_ctx *ctx, const hyperattn_params *params)
{
    tensors_reset_gradients(t);
    const char *why = run(t, ctx, params, 1);
    for (int which = T_DQ; which <= T_DV && !why; which++)
        why = check_written(t, (operand)which);
    return why;
}

const char *tensors_run(tensors *t, const hyperattn_params *params, const char *level,
                        int nthreads)
{
    hyperattn_ctx *ctx = ctx_at(level, nthreads);
    const char *why = tensors_forward(t, ctx, params);
    hyperattn_ctx_destroy(ctx);
    return why;
}

const char *tensors_run_backward(tensors *t, const hyperattn_params *params, const char *level,
                                 int nthreads)
{
    hyperattn_ctx *ctx = ctx_at(level, nthreads);
    const char *why = tensors_backward(t, ctx, params);
    hyperattn_ctx_destroy(ctx);
    return why;
}

/* ---- bit for bit --------------------------------------------------------------------------- */

static void *copy_of(const guarded *g)
{
    return g->pages ? memcpy(malloc(g->size + 1), g->data, g->size) : NULL;
}

saved tensors_save(const tensors *t)
{
    saved s = {.out = copy_of(&t->mem[T_OUT]), .lse = copy_of(&t->lse)};
    for (int part = 0; part < 3; part++)
        s.gradient[part] = copy_of(&t->mem[T_DQ + part]);
    return s;
}

void saved_free(saved *s)
{
    free(s->out);
    free(s->lse);
    for (int part = 0; part < 3; part++)
        free(s->gradient[part]);
    *s = (saved){0};
}

/* Rows of one operand against a copy of its memory. */
static const char *same_row(const tensors *t, operand which, const void *copy, int64_t b, int64_t h,
                            int64_t i)
{
    size_t size = dtype_size(t->full.dtype), at = (size_t)tensors_at(t, which, b, h, i) * size;
    for (int64_t c = 0; c < tensors_dim(t, which); c++, at += size)
        if (memcmp(t->mem[which].data + at, (const char *)copy + at, size) != 0)
            return failure("%s of sequence %lld, head %lld, row %lld, column %lld has other bits "
                           "(%.9g, was %.9g)",
                           operand_names[which], (long long)b, (long long)h, (long long)i,
                           (long long)c, tensors_get(t, which, b, h, i, c),
                           element_get(copy, (int64_t)(at / size), t->full.dtype));
    return NULL;
}

static const char *same_rows(const tensors *t, operand which, const void *copy, int64_t rows_end)
{
    const char *why = NULL;
    for (int64_t b = 0; b < t->full.batch; b++)
        for (int64_t h = 0; h < tensors_heads(t, which); h++)
            for (int64_t i = 0; i < tensors_nrows(t, which, b) && i < rows_end && !why; i++)
                why = same_row(t, which, copy, b, h, i);
    return why;
}

const char *tensors_same_bits(const tensors *t, const saved *s, int64_t rows_end)
{
    const char *why = same_rows(t, T_OUT, s->out, rows_end);
    for (int64_t b = 0; b < t->full.batch; b++)
        for (int64_t h = 0; h < t->full.nheads; h++)
            for (int64_t i = 0; i < tensors_nrows(t, T_OUT, b) && i < rows_end && !why; i++) {
                size_t row = (size_t)tensors_row(t, b, h, i);
                if (memcmp((const float *)t->lse.data + row, s->lse + row, sizeof(float)) != 0)
                    why = failure("lse of sequence %lld, head %lld, row %lld has other bits "
                                  "(%.9g, was %.9g)",
                                  (long long)b, (long long)h, (long long)i,
                                  (double)tensors_lse(t, b, h, i), (double)s->lse[row]);
            }
    return why;
}

const char *tensors_same_gradients(const tensors *t, const saved *s, int64_t rows_end,
                                   int64_t keys_end)
{
    const char *why = NULL;
    for (int part = 0; part < 3 && !why; part++)
        why = same_rows(t, (operand)(T_DQ + part), s->gradient[part],
                        part == 0 ? rows_end : keys_end);
    return why;
}
