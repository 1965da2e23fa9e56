/* SPDX-License-Identifier: Apache-2.0
 *
 * The calls that touch tensors: pointers are checked here, the backend does the rest.
 */
#include "keep_errno.h"
#include "plan.h"
#include "problem.h"
#include "status.h"

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)

const char *hyperattn_version(void)
{
    return TEXT(HYPERATTN_VERSION_MAJOR) "." TEXT(HYPERATTN_VERSION_MINOR) "." TEXT(
        HYPERATTN_VERSION_PATCH);
}

/* A range of memory that a call reads or writes. Of each `period` bytes only the first `used` are;
 * 0: all are. */
typedef struct range {
    const char *name;
    const void *ptr;
    size_t bytes;
    int written;
    size_t period, used;
} range;

/* Its rows recur with the row stride, if the heads of one row lie within it. */
static range tensor(const char *name, const void *ptr, size_t bytes, const hyperattn_problem *p,
                    const int64_t stride[3], int64_t heads, int64_t dim)
{
    size_t size = p->dtype == HYPERATTN_F32 ? 4 : 2;
    int64_t used = (heads - 1) * stride[1] + dim;
    int one = p->batch == 1 || p->cu_seqlens_q;
    range r = {.name = name, .ptr = ptr, .bytes = bytes};
    if (used <= stride[2] && (one || stride[0] % stride[2] == 0)) {
        r.period = (size_t)stride[2] * size;
        r.used = (size_t)used * size;
    }
    return r;
}

static range like_q(const hyperattn_plan *plan, const char *name, const void *ptr)
{
    const hyperattn_problem *p = &plan->problem;
    return tensor(name, ptr, plan->view.bytes.q, p, p->q_stride, p->nheads, p->head_dim);
}

static range like_k(const hyperattn_plan *plan, const char *name, const void *ptr)
{
    const hyperattn_problem *p = &plan->problem;
    return tensor(name, ptr, plan->view.bytes.k, p, p->k_stride, p->nheads_kv, p->head_dim);
}

static range like_v(const hyperattn_plan *plan, const char *name, const void *ptr)
{
    const hyperattn_problem *p = &plan->problem;
    return tensor(name, ptr, plan->view.bytes.v, p, p->v_stride, p->nheads_kv, p->head_dim_v);
}

static range like_out(const hyperattn_plan *plan, const char *name, const void *ptr)
{
    const hyperattn_problem *p = &plan->problem;
    return tensor(name, ptr, plan->view.bytes.out, p, p->out_stride, p->nheads, p->head_dim_v);
}

static range written(range r)
{
    r.written = 1;
    return r;
}

static range array(const char *name, const void *ptr, size_t bytes)
{
    return (range){.name = name, .ptr = ptr, .bytes = ptr ? bytes : 0};
}

/* Whether two ranges lie in the gaps of each other, as q, k and v do in one array of rows. */
static int interleave(const range *a, const range *b)
{
    if (!a->period || a->period != b->period)
        return 0;
    if ((uintptr_t)b->ptr < (uintptr_t)a->ptr)
        return interleave(b, a);
    size_t apart = (size_t)((uintptr_t)b->ptr - (uintptr_t)a->ptr);
    apart %= a->period;
    return a->used <= apart && apart + b->used <= a->period;
}

static int overlap(const range *a, const range *b)
{
    uintptr_t x = (uintptr_t)a->ptr, y = (uintptr_t)b->ptr;
    return x < y + b->bytes && y < x + a->bytes && !interleave(a, b);
}

/* What a call writes must not overlap anything else it is given. */
static hyperattn_status check_ranges(const range *r, int n)
{
    for (int i = 0; i < n; i++)
        for (int j = 0; j < i; j++)
            if ((r[i].written || r[j].written) && overlap(&r[i], &r[j]))
                return ha_fail(HYPERATTN_EINVAL,
                               "%s at %p (%zu bytes) overlaps %s at %p (%zu bytes)", r[i].name,
                               r[i].ptr, r[i].bytes, r[j].name, r[j].ptr, r[j].bytes);
    return HYPERATTN_OK;
}

/* A range may be NULL only if it is empty. */
static hyperattn_status check_pointers(const range *r, int n, size_t align)
{
    for (int i = 0; i < n; i++) {
        if (!r[i].ptr && r[i].bytes)
            return ha_fail(HYPERATTN_EINVAL, "%s is NULL", r[i].name);
        if ((uintptr_t)r[i].ptr % align)
            return ha_fail(HYPERATTN_EINVAL, "%s is %p, not aligned to %zu bytes", r[i].name,
                           r[i].ptr, align);
    }
    return HYPERATTN_OK;
}

/* Memory for a call whose caller brings none; NULL if the backend finds its own. */
static hyperattn_status borrow(const hyperattn_plan *plan, size_t bytes, void **own)
{
    if (plan->ctx->backend->workspace == HA_MEMORY_DEVICE)
        bytes = 0;
    *own = bytes ? ha_alloc(plan->ctx, bytes) : NULL;
    return bytes && !*own ? HYPERATTN_ENOMEM : HYPERATTN_OK;
}

hyperattn_status hyperattn_forward(const hyperattn_plan *plan, const void *q, const void *k,
                                   const void *v, void *out, float *lse, void *workspace)
{
    HA_KEEP_ERRNO;
    if (!plan)
        return ha_fail(HYPERATTN_EINVAL, "plan is NULL");
    size_t element = plan->problem.dtype == HYPERATTN_F32 ? 4 : 2;
    const range tensors[] = {
        like_q(plan, "q", q),
        like_k(plan, "k", k),
        like_v(plan, "v", v),
        written(like_out(plan, "out", out)),
        written(array("lse", lse, plan->view.bytes.lse)),
        written(array("workspace", workspace, plan->view.workspace)),
    };
    hyperattn_status status;
    if ((status = check_pointers(tensors, 4, element)) ||
        (status = check_pointers(tensors + 4, 1, sizeof(float))) ||
        (status = check_pointers(tensors + 5, 1, 64)) || (status = check_ranges(tensors, 6)))
        return status;

    void *own = NULL;
    if ((status = borrow(plan, workspace ? 0 : plan->view.workspace, &own)))
        return status;
    const ha_tensors t = {q, k, v, out, lse};
    status = plan->ctx->backend->forward(&plan->view, &t, workspace ? workspace : own);
    ha_free(plan->ctx, own);
    return status;
}

hyperattn_status hyperattn_backward(const hyperattn_plan *plan, const void *q, const void *k,
                                    const void *v, const void *out, const float *lse,
                                    const void *dout, void *dq, void *dk, void *dv,
                                    void *workspace)
{
    HA_KEEP_ERRNO;
    if (!plan)
        return ha_fail(HYPERATTN_EINVAL, "plan is NULL");
    size_t element = plan->problem.dtype == HYPERATTN_F32 ? 4 : 2;
    const range tensors[] = {
        like_q(plan, "q", q),
        like_k(plan, "k", k),
        like_v(plan, "v", v),
        like_out(plan, "out", out),
        like_out(plan, "dout", dout),
        written(like_q(plan, "dq", dq)),
        written(like_k(plan, "dk", dk)),
        written(like_v(plan, "dv", dv)),
        {.name = "lse", .ptr = lse, .bytes = plan->view.bytes.lse},
        written(array("workspace", workspace, plan->view.workspace_backward)),
    };
    hyperattn_status status = ha_problem_check_gradients(&plan->problem);
    if (status || (status = check_pointers(tensors, 8, element)) ||
        (status = check_pointers(tensors + 8, 1, sizeof(float))) ||
        (status = check_pointers(tensors + 9, 1, 64)) || (status = check_ranges(tensors, 10)))
        return status;

    void *own = NULL;
    if ((status = borrow(plan, workspace ? 0 : plan->view.workspace_backward, &own)))
        return status;
    const ha_gradients t = {q, k, v, out, lse, dout, dq, dk, dv};
    status = plan->ctx->backend->backward(&plan->view, &t, workspace ? workspace : own);
    ha_free(plan->ctx, own);
    return status;
}

hyperattn_status hyperattn_merge(const hyperattn_plan *plan, void *out, float *lse,
                                 const void *out2, const float *lse2)
{
    HA_KEEP_ERRNO;
    if (!plan)
        return ha_fail(HYPERATTN_EINVAL, "plan is NULL");
    size_t element = plan->problem.dtype == HYPERATTN_F32 ? 4 : 2;
    const range tensors[] = {
        written(like_out(plan, "out", out)),
        like_out(plan, "out2", out2),
        {.name = "lse", .ptr = lse, .bytes = plan->view.bytes.lse, .written = 1},
        {.name = "lse2", .ptr = lse2, .bytes = plan->view.bytes.lse},
    };
    hyperattn_status status;
    if ((status = check_pointers(tensors, 2, element)) ||
        (status = check_pointers(tensors + 2, 2, sizeof(float))) ||
        (status = check_ranges(tensors, 4)))
        return status;
    return plan->ctx->backend->merge(&plan->view, out, lse, out2, lse2);
}
