/* SPDX-License-Identifier: Apache-2.0
 *
 * The calls that touch tensors: pointers are checked here, the backend does the rest.
 */
#include "plan.h"
#include "status.h"

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)

const char *hyperattn_version(void)
{
    return TEXT(HYPERATTN_VERSION_MAJOR) "." TEXT(HYPERATTN_VERSION_MINOR) "." TEXT(
        HYPERATTN_VERSION_PATCH);
}

/* A range of memory that a call reads or writes. */
typedef struct range {
    const char *name;
    const void *ptr;
    size_t bytes;
    int written;
} range;

/* What a call writes must not overlap anything else it is given. */
static hyperattn_status check_ranges(const range *r, int n)
{
    for (int i = 0; i < n; i++)
        for (int j = 0; j < i; j++) {
            uintptr_t a = (uintptr_t)r[i].ptr, b = (uintptr_t)r[j].ptr;
            if ((r[i].written || r[j].written) && a < b + r[j].bytes && b < a + r[i].bytes)
                return ha_fail(HYPERATTN_EINVAL, "%s at %p (%zu bytes) overlaps %s at %p (%zu bytes)",
                               r[i].name, r[i].ptr, r[i].bytes, r[j].name, r[j].ptr, r[j].bytes);
        }
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

hyperattn_status hyperattn_forward(const hyperattn_plan *plan, const void *q, const void *k,
                                   const void *v, void *out, float *lse, void *workspace)
{
    if (!plan)
        return ha_fail(HYPERATTN_EINVAL, "plan is NULL");
    const ha_extents *bytes = &plan->bytes;
    size_t element = plan->problem.dtype == HYPERATTN_F32 ? 4 : 2;
    const range tensors[] = {
        {"q", q, bytes->q, 0},       {"k", k, bytes->k, 0},
        {"v", v, bytes->v, 0},       {"out", out, bytes->out, 1},
        {"lse", lse, lse ? bytes->lse : 0, 1},
        {"workspace", workspace, workspace ? plan->workspace : 0, 1},
    };
    hyperattn_status status;
    if ((status = check_pointers(tensors, 4, element)) ||
        (status = check_pointers(tensors + 4, 1, sizeof(float))) ||
        (status = check_pointers(tensors + 5, 1, 64)) || (status = check_ranges(tensors, 6)))
        return status;

    void *own = NULL;
    if (!workspace && plan->workspace) {
        own = ha_alloc(plan->ctx, plan->workspace);
        if (!own)
            return HYPERATTN_ENOMEM;
    }
    const ha_tensors t = {q, k, v, out, lse};
    status = plan->ctx->backend->forward(plan, &t, workspace ? workspace : own);
    ha_free(plan->ctx, own);
    return status;
}

hyperattn_status hyperattn_merge(const hyperattn_plan *plan, void *out, float *lse,
                                 const void *out2, const float *lse2)
{
    if (!plan)
        return ha_fail(HYPERATTN_EINVAL, "plan is NULL");
    size_t element = plan->problem.dtype == HYPERATTN_F32 ? 4 : 2;
    const range tensors[] = {
        {"out", out, plan->bytes.out, 1},
        {"out2", out2, plan->bytes.out, 0},
        {"lse", lse, plan->bytes.lse, 1},
        {"lse2", lse2, plan->bytes.lse, 0},
    };
    hyperattn_status status;
    if ((status = check_pointers(tensors, 2, element)) ||
        (status = check_pointers(tensors + 2, 2, sizeof(float))) ||
        (status = check_ranges(tensors, 4)))
        return status;
    return plan->ctx->backend->merge(plan, out, lse, out2, lse2);
}
