/* SPDX-License-Identifier: Apache-2.0
 *
 * A module that serves: exact attention of f32 tensors in plain C, under the name of CUDA. Devices
 * 0 to 7 are "there". Its source knows the contract's header and lib/algo's, and nothing else of the
 * library.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "algo/algo.h"
#include "backend.h"

static const ha_host *host;
static int queries;

/* ---- device -------------------------------------------------------------------------------- */

typedef struct device {
    char isa[16], reason[32];
} device;

static hyperattn_status fake_open(ha_device *d)
{
    if (d->device > 7)
        return host->fail(HYPERATTN_EBACKEND, "device %d is not there", d->device);
    device *own = host->alloc(d->ctx, sizeof *own);
    if (!own)
        return HYPERATTN_ENOMEM;
    snprintf(own->isa, sizeof own->isa, "fake%d%s", d->device, d->stream ? "s" : "");
    snprintf(own->reason, sizeof own->reason, "queries: %d", queries);
    d->state = own;
    d->isa = own->isa;
    d->reason = own->reason;
    return HYPERATTN_OK;
}

static void fake_close(ha_device *d)
{
    host->free(d->ctx, d->state);
}

/* ---- plan ---------------------------------------------------------------------------------- */

typedef struct layout {
    int64_t group; /* query heads per key head */
} layout;

static hyperattn_status fake_plan(ha_plan *plan)
{
    const hyperattn_problem *p = plan->problem;
    if (plan->params->method != HYPERATTN_EXACT || p->dtype != HYPERATTN_F32 || p->cu_seqlens_q)
        return host->fail(HYPERATTN_ENOTSUP, "the fake module does plain f32 only");
    ha_layout counted = {.nq = p->seqlen_q, .nk = p->seqlen_k};
    host->algo->layout_build(&counted, plan->params, p->causal);
    if (counted.nleaves != 1 || counted.nwaves != 0)
        return host->fail(HYPERATTN_EBACKEND, "the host cuts exact attention into %lld leaves",
                          (long long)counted.nleaves);
    layout *own = host->alloc(plan->device->ctx, sizeof *own);
    if (!own)
        return HYPERATTN_ENOMEM;
    own->group = p->nheads / p->nheads_kv;
    plan->data = own;
    plan->workspace = (size_t)p->seqlen_k * sizeof(float);
    return HYPERATTN_OK;
}

static void fake_unplan(ha_plan *plan)
{
    host->free(plan->device->ctx, plan->data);
}

/* ---- forward and merge --------------------------------------------------------------------- */

static int64_t place(const int64_t stride[3], int64_t b, int64_t h, int64_t row)
{
    return b * stride[0] + h * stride[1] + row * stride[2];
}

/* One row: weights[seqlen_k] is the workspace. */
static float attend(const hyperattn_problem *p, const float *q, const float *k, const float *v,
                    float *out, int64_t keys, float *weights)
{
    float top = -INFINITY, sum = 0;
    for (int64_t j = 0; j < keys; j++) {
        weights[j] = 0;
        for (int64_t d = 0; d < p->head_dim; d++)
            weights[j] += p->softmax_scale * q[d] * k[j * p->k_stride[2] + d];
        top = fmaxf(top, weights[j]);
    }
    for (int64_t j = 0; j < keys; j++)
        sum += weights[j] = expf(weights[j] - top);
    for (int64_t d = 0; d < p->head_dim_v; d++) {
        float x = 0;
        for (int64_t j = 0; j < keys; j++)
            x += weights[j] * v[j * p->v_stride[2] + d];
        out[d] = keys ? x / sum : 0;
    }
    return keys ? top + logf(sum) : -INFINITY;
}

static int64_t keys_of(const hyperattn_problem *p, int64_t i)
{
    int64_t keys = p->causal ? i + 1 + p->seqlen_k - p->seqlen_q : p->seqlen_k;
    return keys < 0 ? 0 : keys;
}

static hyperattn_status fake_forward(const ha_plan *plan, const ha_tensors *t, void *workspace)
{
    const hyperattn_problem *p = plan->problem;
    const layout *own = plan->data;
    if (!workspace)
        return host->fail(HYPERATTN_EBACKEND, "the fake module got no workspace");
    for (int64_t b = 0; b < p->batch; b++)
        for (int64_t h = 0; h < p->nheads; h++)
            for (int64_t i = 0; i < p->seqlen_q; i++) {
                int64_t kv = h / own->group;
                float lse = attend(p, (const float *)t->q + place(p->q_stride, b, h, i),
                                   (const float *)t->k + place(p->k_stride, b, kv, 0),
                                   (const float *)t->v + place(p->v_stride, b, kv, 0),
                                   (float *)t->out + place(p->out_stride, b, h, i), keys_of(p, i),
                                   workspace);
                if (t->lse)
                    t->lse[(b * p->nheads + h) * p->seqlen_q + i] = lse;
            }
    return HYPERATTN_OK;
}

static hyperattn_status fake_backward(const ha_plan *plan, const ha_gradients *t, void *workspace)
{
    (void)plan, (void)t, (void)workspace;
    return host->fail(HYPERATTN_ENOTSUP, "the fake module has no backward");
}

static void merge_row(float *out, float *lse, const float *out2, float lse2, int64_t n)
{
    float top = fmaxf(*lse, lse2);
    if (top == -INFINITY)
        return;
    float a = expf(*lse - top), b = expf(lse2 - top);
    for (int64_t d = 0; d < n; d++)
        out[d] = (a * out[d] + b * out2[d]) / (a + b);
    *lse = top + logf(a + b);
}

static hyperattn_status fake_merge(const ha_plan *plan, void *out, float *lse, const void *out2,
                                   const float *lse2)
{
    const hyperattn_problem *p = plan->problem;
    for (int64_t row = 0; row < p->batch * p->nheads * p->seqlen_q; row++) {
        int64_t h = row / p->seqlen_q % p->nheads, b = row / p->seqlen_q / p->nheads;
        int64_t at = place(p->out_stride, b, h, row % p->seqlen_q);
        merge_row((float *)out + at, &lse[row], (const float *)out2 + at, lse2[row], p->head_dim_v);
    }
    return HYPERATTN_OK;
}

/* ---- table --------------------------------------------------------------------------------- */

ha_backend_query hyperattn_backend_query;

hyperattn_status hyperattn_backend_query(const ha_host *given, const ha_backend **backend)
{
    static const ha_backend table = {
        .abi_version = HA_BACKEND_ABI,
        .struct_size = offsetof(ha_backend, measure), /* as of a module that was older */
        .name = "cuda",
        .workspace = HA_MEMORY_HOST,
        .open = fake_open,
        .close = fake_close,
        .plan = fake_plan,
        .unplan = fake_unplan,
        .forward = fake_forward,
        .backward = fake_backward,
        .merge = fake_merge,
    };
    if (given->abi_version != HA_BACKEND_ABI || given->struct_size < sizeof *given)
        return HYPERATTN_EVERSION;
    host = given;
    queries++;
    host->log(HA_LOG_DEBUG, "the fake module was asked %d times", queries);
    *backend = &table;
    return HYPERATTN_OK;
}
