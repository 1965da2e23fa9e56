/* SPDX-License-Identifier: Apache-2.0
 *
 * The calls that touch tensors: pointers are checked here, the backend does the rest.
 */
#include <math.h>

#include "keep_errno.h"
#include "overlap.h"
#include "plan.h"
#include "problem.h"
#include "report.h"
#include "status.h"

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)

const char *hyperattn_version(void)
{
    return TEXT(HYPERATTN_VERSION_MAJOR) "." TEXT(HYPERATTN_VERSION_MINOR) "." TEXT(
        HYPERATTN_VERSION_PATCH);
}

static size_t element_size(const hyperattn_problem *p)
{
    return p->dtype == HYPERATTN_F32 ? 4 : 2;
}

/* Memory that a call reads or writes. */
typedef struct operand {
    const char *name;
    ha_region region;
    int written;
} operand;

static operand tensor(const char *name, const void *ptr, size_t bytes, const hyperattn_problem *p,
                      const int64_t stride[3], const int64_t size[3])
{
    return (operand){
        .name = name,
        .region = {.ptr = ptr,
                   .bytes = bytes,
                   .element = element_size(p),
                   .size = {p->cu_seqlens_q ? 1 : p->batch, size[0], size[1], size[2]},
                   .stride = {stride[0], stride[1], stride[2], 1}},
    };
}

static int64_t rows_q(const hyperattn_problem *p)
{
    return p->cu_seqlens_q ? p->cu_seqlens_q[p->batch] : p->seqlen_q;
}

static int64_t rows_k(const hyperattn_problem *p)
{
    return p->cu_seqlens_k ? p->cu_seqlens_k[p->batch] : p->seqlen_k;
}

static operand like_q(const hyperattn_plan *plan, const char *name, const void *ptr)
{
    const hyperattn_problem *p = &plan->problem;
    const int64_t size[] = {p->nheads, rows_q(p), p->head_dim};
    return tensor(name, ptr, plan->view.bytes.q, p, p->q_stride, size);
}

static operand like_k(const hyperattn_plan *plan, const char *name, const void *ptr)
{
    const hyperattn_problem *p = &plan->problem;
    const int64_t size[] = {p->nheads_kv, rows_k(p), p->head_dim};
    return tensor(name, ptr, plan->view.bytes.k, p, p->k_stride, size);
}

static operand like_v(const hyperattn_plan *plan, const char *name, const void *ptr)
{
    const hyperattn_problem *p = &plan->problem;
    const int64_t size[] = {p->nheads_kv, rows_k(p), p->head_dim_v};
    return tensor(name, ptr, plan->view.bytes.v, p, p->v_stride, size);
}

static operand like_out(const hyperattn_plan *plan, const char *name, const void *ptr)
{
    const hyperattn_problem *p = &plan->problem;
    const int64_t size[] = {p->nheads, rows_q(p), p->head_dim_v};
    return tensor(name, ptr, plan->view.bytes.out, p, p->out_stride, size);
}

static operand written(operand o)
{
    o.written = 1;
    return o;
}

static operand array(const char *name, const void *ptr, size_t bytes)
{
    return (operand){.name = name, .region = {.ptr = ptr, .bytes = bytes}};
}

/* An array that the caller may leave out. */
static operand optional(const char *name, const void *ptr, size_t bytes)
{
    return array(name, ptr, ptr ? bytes : 0);
}

/* What a call writes must not overlap anything else it is given. */
static hyperattn_status check_overlaps(const operand *o, int n)
{
    for (int i = 0; i < n; i++)
        for (int j = 0; j < i; j++)
            if ((o[i].written || o[j].written) && ha_overlap(&o[i].region, &o[j].region))
                return ha_fail(HYPERATTN_EINVAL,
                               "%s at %p (%zu bytes) overlaps %s at %p (%zu bytes)", o[i].name,
                               o[i].region.ptr, o[i].region.bytes, o[j].name, o[j].region.ptr,
                               o[j].region.bytes);
    return HYPERATTN_OK;
}

/* An operand may be NULL only if it is empty. */
static hyperattn_status check_pointers(const operand *o, int n, size_t align)
{
    for (int i = 0; i < n; i++) {
        const void *ptr = o[i].region.ptr;
        if (!ptr && o[i].region.bytes)
            return ha_fail(HYPERATTN_EINVAL, "%s is NULL", o[i].name);
        if ((uintptr_t)ptr % align)
            return ha_fail(HYPERATTN_EINVAL, "%s is %p, not aligned to %zu bytes", o[i].name, ptr,
                           align);
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

/* Where what was chosen is written. */
typedef struct choices {
    hyperattn_choice *per_head; /* NULL: nowhere */
    size_t size;                /* of an entry */
} choices;

static hyperattn_status run_forward(const hyperattn_plan *plan, const ha_tensors *t,
                                    void *workspace, const choices *to)
{
    const ha_backend *backend = plan->ctx->backend;
    const hyperattn_problem *p = &plan->problem;
    const hyperattn_choice whole = {
        .method = plan->params.method, .budget = plan->params.budget, .tried = 1, .rel_error = NAN};
    if (to->per_head && plan->view.ladder)
        return backend->forward_report(&plan->view, t, workspace, to->per_head, to->size);
    for (int64_t head = 0; to->per_head && head < p->batch * p->nheads; head++)
        ha_choice_write(to->per_head, to->size, &whole, head);
    return backend->forward(&plan->view, t, workspace);
}

static hyperattn_status forward(const hyperattn_plan *plan, const ha_tensors *t, void *workspace,
                                const choices *to)
{
    const hyperattn_problem *p = &plan->problem;
    size_t element = element_size(p);
    const operand tensors[] = {
        like_q(plan, "q", t->q),
        like_k(plan, "k", t->k),
        like_v(plan, "v", t->v),
        written(like_out(plan, "out", t->out)),
        written(optional("lse", t->lse, plan->view.bytes.lse)),
        written(optional("workspace", workspace, plan->view.workspace)),
        written(optional("per_head", to->per_head, to->size * (size_t)(p->batch * p->nheads))),
    };
    hyperattn_status status;
    if ((status = check_pointers(tensors, 4, element)) ||
        (status = check_pointers(tensors + 4, 1, sizeof(float))) ||
        (status = check_pointers(tensors + 5, 1, 64)) || (status = check_overlaps(tensors, 7)))
        return status;

    void *own = NULL;
    if ((status = borrow(plan, workspace ? 0 : plan->view.workspace, &own)))
        return status;
    status = run_forward(plan, t, workspace ? workspace : own, to);
    ha_free(plan->ctx, own);
    return status;
}

hyperattn_status hyperattn_forward(const hyperattn_plan *plan, const void *q, const void *k,
                                   const void *v, void *out, float *lse, void *workspace)
{
    HA_KEEP_ERRNO;
    const ha_tensors t = {q, k, v, out, lse};
    const choices nowhere = {NULL, 0};
    if (!plan)
        return ha_fail(HYPERATTN_EINVAL, "plan is NULL");
    return forward(plan, &t, workspace, &nowhere);
}

hyperattn_status hyperattn_forward_report(const hyperattn_plan *plan, const void *q, const void *k,
                                          const void *v, void *out, float *lse, void *workspace,
                                          hyperattn_choice *per_head)
{
    HA_KEEP_ERRNO;
    const ha_tensors t = {q, k, v, out, lse};
    choices to = {per_head, 0};
    if (!plan || !per_head)
        return ha_fail(HYPERATTN_EINVAL, plan ? "per_head is NULL" : "plan is NULL");
    if ((uintptr_t)per_head % sizeof(double))
        return ha_fail(HYPERATTN_EINVAL, "per_head is %p, not aligned to %zu bytes",
                       (const void *)per_head, sizeof(double));
    hyperattn_status status = ha_choice_size(&to.size, per_head);
    return status ? status : forward(plan, &t, workspace, &to);
}

hyperattn_status hyperattn_backward(const hyperattn_plan *plan, const void *q, const void *k,
                                    const void *v, const void *out, const float *lse,
                                    const void *dout, void *dq, void *dk, void *dv,
                                    void *workspace)
{
    HA_KEEP_ERRNO;
    if (!plan)
        return ha_fail(HYPERATTN_EINVAL, "plan is NULL");
    size_t element = element_size(&plan->problem);
    const operand tensors[] = {
        like_q(plan, "q", q),
        like_k(plan, "k", k),
        like_v(plan, "v", v),
        like_out(plan, "out", out),
        like_out(plan, "dout", dout),
        written(like_q(plan, "dq", dq)),
        written(like_k(plan, "dk", dk)),
        written(like_v(plan, "dv", dv)),
        array("lse", lse, plan->view.bytes.lse),
        written(optional("workspace", workspace, plan->view.workspace_backward)),
    };
    hyperattn_status status = ha_problem_check_gradients(&plan->problem);
    if (status || (status = check_pointers(tensors, 8, element)) ||
        (status = check_pointers(tensors + 8, 1, sizeof(float))) ||
        (status = check_pointers(tensors + 9, 1, 64)) || (status = check_overlaps(tensors, 10)))
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
    size_t element = element_size(&plan->problem);
    const operand tensors[] = {
        written(like_out(plan, "out", out)),
        like_out(plan, "out2", out2),
        written(array("lse", lse, plan->view.bytes.lse)),
        array("lse2", lse2, plan->view.bytes.lse),
    };
    hyperattn_status status;
    if ((status = check_pointers(tensors, 2, element)) ||
        (status = check_pointers(tensors + 2, 2, sizeof(float))) ||
        (status = check_overlaps(tensors, 4)))
        return status;
    return plan->ctx->backend->merge(&plan->view, out, lse, out2, lse2);
}

static hyperattn_status check_report(const char *name, const hyperattn_report *report, size_t *size)
{
    if ((uintptr_t)report % sizeof(double))
        return ha_fail(HYPERATTN_EINVAL, "%s is %p, not aligned to %zu bytes", name,
                       (const void *)report, sizeof(double));
    return ha_report_size(size, report);
}

/* Calls the backend, whose reports are of this version, and writes the caller's. */
static hyperattn_status measure(const hyperattn_plan *plan, const ha_measured *t, int64_t rows,
                                hyperattn_report *total, hyperattn_report *per_head,
                                const size_t size[2])
{
    const hyperattn_problem *p = &plan->problem;
    int64_t heads = per_head ? p->batch * p->nheads : 0;
    size_t bytes;
    if (__builtin_mul_overflow((size_t)heads + 1, sizeof *total, &bytes))
        return ha_fail(HYPERATTN_EINVAL, "batch * nheads is %lld: its reports wrap",
                       (long long)heads);
    hyperattn_report *own = ha_alloc(plan->ctx, bytes);
    if (!own)
        return HYPERATTN_ENOMEM;
    for (int64_t i = 0; i <= heads; i++)
        hyperattn_report_init(&own[i]);
    hyperattn_status status =
        plan->ctx->backend->measure(&plan->view, t, rows, own, per_head ? own + 1 : NULL);
    if (!status) {
        ha_report_write(total, size[0], own, 1);
        ha_report_write(per_head, size[1], own + 1, heads);
    }
    ha_free(plan->ctx, own);
    return status;
}

hyperattn_status hyperattn_measure(const hyperattn_plan *plan, const void *q, const void *k,
                                   const void *v, const void *out, int64_t rows,
                                   hyperattn_report *total, hyperattn_report *per_head)
{
    HA_KEEP_ERRNO;
    if (!plan)
        return ha_fail(HYPERATTN_EINVAL, "plan is NULL");
    if (!total)
        return ha_fail(HYPERATTN_EINVAL, "total is NULL");
    if (rows < 1)
        return ha_fail(HYPERATTN_EINVAL, "rows is %lld, must be at least 1", (long long)rows);
    const hyperattn_problem *p = &plan->problem;
    size_t size[2] = {0, 0};
    hyperattn_status status = check_report("total", total, &size[0]);
    if (status || (per_head && (status = check_report("per_head", per_head, &size[1]))))
        return status;
    const operand tensors[] = {
        like_q(plan, "q", q),
        like_k(plan, "k", k),
        like_v(plan, "v", v),
        like_out(plan, "out", out),
        written(array("total", total, size[0])),
        written(optional("per_head", per_head, size[1] * (size_t)(p->batch * p->nheads))),
    };
    if ((status = check_pointers(tensors, 4, element_size(p))) ||
        (status = check_overlaps(tensors, 6)))
        return status;
    if (!plan->ctx->backend->measure)
        return ha_fail(HYPERATTN_ENOTSUP, "the backend %s cannot measure",
                       plan->ctx->backend->name);
    const ha_measured t = {q, k, v, out};
    return measure(plan, &t, rows, total, per_head, size);
}
