/* SPDX-License-Identifier: Apache-2.0 */
#include "problem.h"

#include <float.h>
#include <math.h>

#include "fpmode.h"
#include "status.h"
#include "struct_size.h"

#define MAX_SEQLEN INT32_MAX /* rows are indexed by 32 bits */
#define MAX_HEAD_DIM 65536

/* The scale is multiplied by log2(e), and must stay finite. */
#define MAX_SCALE (FLT_MAX / 1.44269504088896341)

typedef long long ll;

#define FIELD(name) offsetof(hyperattn_problem, name)
static const size_t fields[] = {
    FIELD(batch),        FIELD(nheads),     FIELD(nheads_kv),    FIELD(seqlen_q),
    FIELD(seqlen_k),     FIELD(head_dim),   FIELD(head_dim_v),   FIELD(dtype),
    FIELD(causal),       FIELD(softmax_scale), FIELD(q_stride),  FIELD(k_stride),
    FIELD(v_stride),     FIELD(out_stride), FIELD(cu_seqlens_q), FIELD(cu_seqlens_k),
};
static const ha_struct kind = {"hyperattn_problem", sizeof(hyperattn_problem), fields,
                               sizeof fields / sizeof *fields};

void hyperattn_problem_init(hyperattn_problem *problem)
{
    if (problem)
        *problem = (hyperattn_problem){
            .struct_size = sizeof *problem,
            .batch = 1,
            .nheads = 1,
            .dtype = HYPERATTN_F32,
        };
}

static int element_size(hyperattn_dtype dtype)
{
    return dtype == HYPERATTN_F32 ? 4 : 2;
}

/* One size: at least 1, at most max, or HYPERATTN_ENOTSUP above a limit of this version. */
static hyperattn_status check_size(const char *name, int64_t value, int64_t max)
{
    if (value < 1)
        return ha_fail(HYPERATTN_EINVAL, "%s is %lld, must be at least 1", name, (ll)value);
    if (value > INT64_MAX / 1024)
        return ha_fail(HYPERATTN_EINVAL, "%s is %lld: sizes of it wrap", name, (ll)value);
    if (value > max)
        return ha_fail(HYPERATTN_ENOTSUP, "%s is %lld, this version goes to %lld", name, (ll)value,
                       (ll)max);
    return HYPERATTN_OK;
}

static hyperattn_status check_sizes(const hyperattn_problem *p)
{
    hyperattn_status status;
    if ((status = check_size("batch", p->batch, INT64_MAX)) ||
        (status = check_size("nheads", p->nheads, INT64_MAX)) ||
        (status = check_size("nheads_kv", p->nheads_kv, INT64_MAX)) ||
        (status = check_size("seqlen_q", p->seqlen_q, MAX_SEQLEN)) ||
        (status = check_size("seqlen_k", p->seqlen_k, MAX_SEQLEN)) ||
        (status = check_size("head_dim", p->head_dim, MAX_HEAD_DIM)) ||
        (status = check_size("head_dim_v", p->head_dim_v, MAX_HEAD_DIM)))
        return status;
    if (p->nheads % p->nheads_kv)
        return ha_fail(HYPERATTN_EINVAL, "nheads is %lld, not a multiple of nheads_kv %lld",
                       (ll)p->nheads, (ll)p->nheads_kv);
    int64_t heads, rows;
    if (__builtin_mul_overflow(p->batch, p->nheads, &heads) ||
        __builtin_mul_overflow(heads, p->seqlen_q, &rows) || rows > INT64_MAX / 8)
        return ha_fail(HYPERATTN_EINVAL,
                       "batch * nheads * seqlen_q is %lld * %lld * %lld: it wraps", (ll)p->batch,
                       (ll)p->nheads, (ll)p->seqlen_q);
    return HYPERATTN_OK;
}

static hyperattn_status check_scalars(const hyperattn_problem *p)
{
    if ((unsigned)p->dtype > HYPERATTN_F16)
        return ha_fail(HYPERATTN_EINVAL, "dtype is %d, not a hyperattn_dtype", (int)p->dtype);
    if (p->causal != 0 && p->causal != 1)
        return ha_fail(HYPERATTN_EINVAL, "causal is %d, must be 0 or 1", p->causal);
    if (!(fabs((double)p->softmax_scale) <= MAX_SCALE))
        return ha_fail(HYPERATTN_EINVAL, "softmax_scale is %g, must be within +-%g",
                       (double)p->softmax_scale, MAX_SCALE);
    return HYPERATTN_OK;
}

static hyperattn_status check_prefix_sums(const char *name, const int64_t *cu, int64_t batch,
                                          const char *max_name, int64_t max)
{
    if (cu[0] != 0)
        return ha_fail(HYPERATTN_EINVAL, "%s[0] is %lld, must be 0", name, (ll)cu[0]);
    for (int64_t b = 0; b < batch; b++) {
        if (cu[b + 1] < cu[b])
            return ha_fail(HYPERATTN_EINVAL, "%s[%lld] is %lld, less than the %lld before it", name,
                           (ll)b + 1, (ll)cu[b + 1], (ll)cu[b]);
        if (cu[b + 1] - cu[b] > max)
            return ha_fail(HYPERATTN_EINVAL,
                           "%s[%lld] is %lld: sequence %lld is longer than %s %lld", name,
                           (ll)b + 1, (ll)cu[b + 1], (ll)b, max_name, (ll)max);
    }
    return HYPERATTN_OK;
}

static hyperattn_status check_ragged(const hyperattn_problem *p)
{
    if (!p->cu_seqlens_q && !p->cu_seqlens_k)
        return HYPERATTN_OK;
    if (!p->cu_seqlens_q || !p->cu_seqlens_k)
        return ha_fail(HYPERATTN_EINVAL, "cu_seqlens_%c is NULL and cu_seqlens_%c is not",
                       p->cu_seqlens_q ? 'k' : 'q', p->cu_seqlens_q ? 'q' : 'k');
    hyperattn_status status =
        check_prefix_sums("cu_seqlens_q", p->cu_seqlens_q, p->batch, "seqlen_q", p->seqlen_q);
    if (status)
        return status;
    return check_prefix_sums("cu_seqlens_k", p->cu_seqlens_k, p->batch, "seqlen_k", p->seqlen_k);
}

/* A tensor's shape [batch, heads, rows, dim] beside its strides. */
typedef struct shape {
    const char *name;
    int64_t size[3], dim;
} shape;

static hyperattn_status fill_packed(const shape *s, int64_t stride[3])
{
    int64_t step = s->dim;
    for (int i = 2; i >= 0; i--) {
        stride[i] = step;
        if (__builtin_mul_overflow(step, s->size[i] ? s->size[i] : 1, &step))
            return ha_fail(HYPERATTN_EINVAL, "%s of %lld x %lld x %lld x %lld elements wraps",
                           s->name, (ll)s->size[0], (ll)s->size[1], (ll)s->size[2], (ll)s->dim);
    }
    return HYPERATTN_OK;
}

/* Elements from the first to behind the last one, and that their bytes can be counted. */
static hyperattn_status extent(const shape *s, const int64_t stride[3], int size, size_t *bytes)
{
    int64_t last = s->dim, step, all;
    *bytes = 0;
    if (!s->size[2])
        return HYPERATTN_OK; /* a ragged batch without rows */
    for (int i = 0; i < 3; i++) {
        if (__builtin_mul_overflow(s->size[i] - 1, stride[i], &step) ||
            __builtin_add_overflow(last, step, &last) ||
            __builtin_mul_overflow(last, (int64_t)size, &all) || all > INT64_MAX / 2)
            return ha_fail(HYPERATTN_EINVAL, "%s_stride[%d] is %lld: the tensor's extent wraps",
                           s->name, i, (ll)stride[i]);
    }
    *bytes = (size_t)last * (size_t)size;
    return HYPERATTN_OK;
}

/* Whether rows of a tensor that is written share elements: taken from the smallest stride to the
 * largest, each must step over all that the smaller ones span. */
static hyperattn_status check_distinct(const shape *s, const int64_t stride[3])
{
    int order[3] = {2, 1, 0};
    for (int i = 1; i < 3; i++)
        for (int j = i; j > 0 && stride[order[j]] < stride[order[j - 1]]; j--) {
            int swap = order[j];
            order[j] = order[j - 1];
            order[j - 1] = swap;
        }
    int64_t span = s->dim;
    for (int i = 0; i < 3; i++) {
        int axis = order[i];
        if (s->size[axis] <= 1)
            continue;
        if (stride[axis] < span)
            return ha_fail(HYPERATTN_EINVAL,
                           "%s_stride[%d] is %lld, less than the %lld elements it must step over",
                           s->name, axis, (ll)stride[axis], (ll)span);
        span += (s->size[axis] - 1) * stride[axis];
    }
    return HYPERATTN_OK;
}

static hyperattn_status resolve_strides(const shape *s, int64_t stride[3], int size, int is_out,
                                        size_t *bytes)
{
    if (!stride[0] && !stride[1] && !stride[2]) {
        hyperattn_status status = fill_packed(s, stride);
        return status ? status : extent(s, stride, size, bytes);
    }
    for (int i = 0; i < 3; i++)
        if (stride[i] < 0)
            return ha_fail(HYPERATTN_EINVAL, "%s_stride[%d] is %lld, must not be negative", s->name,
                           i, (ll)stride[i]);
    if (s->size[2] > 1 && stride[2] < s->dim)
        return ha_fail(HYPERATTN_EINVAL, "%s_stride[2] is %lld, less than the row of %lld elements",
                       s->name, (ll)stride[2], (ll)s->dim);
    hyperattn_status status = extent(s, stride, size, bytes);
    if (!status && is_out)
        status = check_distinct(s, stride);
    return status;
}

/* The tensors of a problem. */
typedef struct shapes {
    shape q, k, v, out;
} shapes;

static shapes shapes_of(const hyperattn_problem *p)
{
    const int64_t *cu_q = p->cu_seqlens_q, *cu_k = p->cu_seqlens_k;
    int64_t batch = cu_q ? 1 : p->batch;
    int64_t rows_q = cu_q ? cu_q[p->batch] : p->seqlen_q;
    int64_t rows_k = cu_k ? cu_k[p->batch] : p->seqlen_k;
    return (shapes){
        .q = {"q", {batch, p->nheads, rows_q}, p->head_dim},
        .k = {"k", {batch, p->nheads_kv, rows_k}, p->head_dim},
        .v = {"v", {batch, p->nheads_kv, rows_k}, p->head_dim_v},
        .out = {"out", {batch, p->nheads, rows_q}, p->head_dim_v},
    };
}

static hyperattn_status resolve_tensors(hyperattn_problem *p, ha_extents *bytes)
{
    int size = element_size(p->dtype);
    const shapes s = shapes_of(p);
    hyperattn_status status;
    if ((status = resolve_strides(&s.q, p->q_stride, size, 0, &bytes->q)) ||
        (status = resolve_strides(&s.k, p->k_stride, size, 0, &bytes->k)) ||
        (status = resolve_strides(&s.v, p->v_stride, size, 0, &bytes->v)) ||
        (status = resolve_strides(&s.out, p->out_stride, size, 1, &bytes->out)))
        return status;
    bytes->lse = (size_t)(s.out.size[0] * s.out.size[1] * s.out.size[2]) * sizeof(float);
    return HYPERATTN_OK;
}

hyperattn_status ha_problem_check_gradients(const hyperattn_problem *p)
{
    const shapes s = shapes_of(p);
    hyperattn_status status;
    if ((status = check_distinct(&s.q, p->q_stride)) ||
        (status = check_distinct(&s.k, p->k_stride)))
        return status;
    return check_distinct(&s.v, p->v_stride);
}

/* Whatever the caller's rounding mode is. volatile keeps the computation where the mode is set. */
static float default_scale(int64_t head_dim)
{
    uint64_t mode = ha_fpmode_get();
    volatile float dim = (float)head_dim, scale;
    ha_fpmode_set(HA_FPMODE);
    scale = 1 / sqrtf(dim);
    ha_fpmode_set(mode);
    return scale;
}

hyperattn_status ha_problem_resolve(hyperattn_problem *resolved, ha_extents *bytes,
                                    const hyperattn_problem *problem)
{
    if (!problem)
        return ha_fail(HYPERATTN_EINVAL, "problem is NULL");
    hyperattn_problem p;
    hyperattn_problem_init(&p);
    hyperattn_status status = ha_struct_read(&p, problem, &kind);
    if (status)
        return status;
    if (!p.nheads_kv)
        p.nheads_kv = p.nheads;
    if (!p.seqlen_k)
        p.seqlen_k = p.seqlen_q;
    if (!p.head_dim_v)
        p.head_dim_v = p.head_dim;
    if ((status = check_sizes(&p)) || (status = check_scalars(&p)) || (status = check_ragged(&p)) ||
        (status = resolve_tensors(&p, bytes)))
        return status;
    if (p.softmax_scale == 0)
        p.softmax_scale = default_scale(p.head_dim);
    *resolved = p;
    return HYPERATTN_OK;
}
