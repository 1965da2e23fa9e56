/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/key_head.h"

static int64_t bytes(int64_t elements, hyperattn_dtype dtype)
{
    return elements * (dtype == HYPERATTN_F32 ? 4 : 2);
}

ha_rows ha_head_rows(const ha_group_rows *rows, int64_t head)
{
    ha_rows r = rows->head0;
    r.base = (const char *)r.base + bytes(head * rows->step, r.dtype);
    return r;
}

ha_out_rows ha_head_out(const ha_group_out *out, int64_t head)
{
    ha_out_rows r = out->head0;
    r.base = (char *)r.base + bytes(head * out->step, r.dtype);
    return r;
}

static ha_rows rows_from(const void *base, int64_t first, int64_t stride, hyperattn_dtype dtype)
{
    return (ha_rows){
        .base = (const char *)base + bytes(first, dtype), .stride = stride, .dtype = dtype};
}

static ha_out_rows out_from(void *base, int64_t first, int64_t stride, hyperattn_dtype dtype)
{
    return (ha_out_rows){
        .base = (char *)base + bytes(first, dtype), .stride = stride, .dtype = dtype};
}

/* Where a key head lies in its sequence. */
typedef struct home {
    ha_sequence seq;
    int64_t sequence;
    int64_t head, query; /* key head, and the first of its query heads */
} home;

static home home_of(const ha_cpu_plan *plan, const ha_plan *whole, int64_t number)
{
    const hyperattn_problem *p = plan->problem;
    int64_t groups = p->nheads / plan->group, sequence = number / groups;
    int64_t query = number % groups * plan->group;
    return (home){ha_cpu_sequence(plan, whole, sequence), sequence,
                  query / (p->nheads / p->nheads_kv), query};
}

static void aim_inputs(ha_key_head *kh, const ha_cpu_plan *plan, const home *at, const void *q,
                       const void *k, const void *v)
{
    const hyperattn_problem *p = plan->problem;
    *kh = (ha_key_head){
        .layout = ha_layout_of(plan, at->sequence),
        .number = (uint32_t)(at->sequence * p->nheads_kv + at->head),
        .query0 = at->sequence * p->nheads + at->query,
        .k = rows_from(k, at->seq.k + at->head * p->k_stride[1], p->k_stride[2], p->dtype),
        .v = rows_from(v, at->seq.v + at->head * p->v_stride[1], p->v_stride[2], p->dtype),
        .q = {rows_from(q, at->seq.q + at->query * p->q_stride[1], p->q_stride[2], p->dtype),
              p->q_stride[1]},
        .lse_step = at->seq.lse_head,
    };
}

void ha_aim_forward(ha_key_head *kh, const ha_cpu_plan *plan, const ha_plan *whole,
                    const ha_tensors *t, int64_t number)
{
    const hyperattn_problem *p = plan->problem;
    const home at = home_of(plan, whole, number);
    int64_t out = at.seq.out + at.query * p->out_stride[1];
    aim_inputs(kh, plan, &at, t->q, t->k, t->v);
    kh->out = (ha_group_out){out_from(t->out, out, p->out_stride[2], p->dtype), p->out_stride[1]};
    kh->lse = t->lse ? t->lse + at.seq.lse + at.query * at.seq.lse_head : NULL;
}

void ha_aim_backward(ha_key_head *kh, const ha_cpu_plan *plan, const ha_plan *whole,
                     const ha_gradients *t, int64_t number)
{
    const hyperattn_problem *p = plan->problem;
    const home at = home_of(plan, whole, number);
    int64_t out = at.seq.out + at.query * p->out_stride[1];
    int64_t q = at.seq.q + at.query * p->q_stride[1];
    aim_inputs(kh, plan, &at, t->q, t->k, t->v);
    kh->o = (ha_group_rows){rows_from(t->out, out, p->out_stride[2], p->dtype), p->out_stride[1]};
    kh->dout =
        (ha_group_rows){rows_from(t->dout, out, p->out_stride[2], p->dtype), p->out_stride[1]};
    kh->dq = (ha_group_out){out_from(t->dq, q, p->q_stride[2], p->dtype), p->q_stride[1]};
    kh->dk = out_from(t->dk, at.seq.k + at.head * p->k_stride[1], p->k_stride[2], p->dtype);
    kh->dv = out_from(t->dv, at.seq.v + at.head * p->v_stride[1], p->v_stride[2], p->dtype);
    kh->lse_given = t->lse + at.seq.lse + at.query * at.seq.lse_head;
}

void ha_aim_measure(ha_key_head *kh, const ha_cpu_plan *plan, const ha_plan *whole,
                    const ha_measured *t, int64_t number)
{
    const hyperattn_problem *p = plan->problem;
    const home at = home_of(plan, whole, number);
    int64_t out = at.seq.out + at.query * p->out_stride[1];
    aim_inputs(kh, plan, &at, t->q, t->k, t->v);
    kh->o = (ha_group_rows){rows_from(t->out, out, p->out_stride[2], p->dtype), p->out_stride[1]};
}
