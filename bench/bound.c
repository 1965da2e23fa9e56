/* SPDX-License-Identifier: Apache-2.0 */
#include "bound.h"

#include <math.h>

#include "convert.h"
#include "memory.h"
#include "message.h"
#include "progress.h"
#include "spectral.h"

head_input compare_head(const comparison *c, int64_t head)
{
    const hyperattn_problem *p = &c->problem;
    const input *in = &c->m->in_f32;
    int64_t batch = head / p->nheads, of_q = head % p->nheads;
    int64_t of_k = of_q / (p->nheads / p->nheads_kv);
    const float *q = in->q.data, *k = in->k.data, *v = in->v.data;
    return (head_input){q + batch * p->q_stride[0] + of_q * p->q_stride[1],
                        k + batch * p->k_stride[0] + of_k * p->k_stride[1],
                        v + batch * p->v_stride[0] + of_k * p->v_stride[1]};
}

static int norms_of_head(head_norms *norms, const comparison *c, int64_t head)
{
    const hyperattn_problem *p = &c->problem;
    const head_input in = compare_head(c, head);
    hyperattn_problem one;
    hyperattn_params params = c->m->params;
    softmax s;
    params.method = HYPERATTN_EXACT;
    softmax_problem(&one, p);
    int status = softmax_open(&s, c->m->ctx, &one, &params, in.q, in.k);
    if (status == STATUS_OK)
        status = spectral_softmax(&norms->softmax, &s);
    softmax_close(&s);
    norms->v = spectral_dense(in.v, NULL, p->seqlen_k, p->head_dim_v);
    return status == STATUS_OK && norms->v < 0 ? STATUS_FAILED : status;
}

int bound_norms(head_norms *norms, const comparison *c)
{
    int64_t heads = compare_shape(c).heads;
    int status = STATUS_OK;
    for (int64_t head = 0; head < heads && status == STATUS_OK; head++) {
        progress("n = %lld: norms, head %lld of %lld", (long long)c->problem.seqlen_k,
                 (long long)head + 1, (long long)heads);
        status = norms_of_head(&norms[head], c, head);
    }
    progress_clear();
    return status;
}

/* ---- errors --------------------------------------------------------------------------------- */

static json_t *head_json(double error, const head_norms *norms, double eps)
{
    json_t *object = json_object();
    json_object_set_new(object, "error_norm", report_json_real(error));
    json_object_set_new(object, "softmax_norm", report_json_real(norms->softmax));
    json_object_set_new(object, "v_norm", report_json_real(norms->v));
    json_object_set_new(object, "eps", report_json_real(eps));
    return object;
}

int bound_report(const comparison *c, const contestant *one, const head_norms *norms, report *r)
{
    const error_shape shape = compare_shape(c);
    const float *exact = compare_reference(c)->out;
    int64_t elements = shape.rows * shape.dim;
    double worst = -1;
    json_t *list = json_array();
    float *approx = buffer_alloc((size_t)elements * sizeof *approx, "output of a head");
    int status = approx ? STATUS_OK : STATUS_FAILED;
    for (int64_t head = 0; head < shape.heads && status == STATUS_OK; head++) {
        size_t at = (size_t)(head * shape.head_stride);
        to_f32(approx, (const char *)one->result.out + at * dtype_size(one->dtype), one->dtype,
               elements);
        double error = spectral_dense(approx, exact + at, shape.rows, shape.dim);
        double eps = error == 0 ? 0 : error / (norms[head].softmax * norms[head].v);
        status = error < 0 ? STATUS_FAILED : STATUS_OK;
        json_array_append_new(list, head_json(error, &norms[head], eps));
        if (!(eps > worst) && !isnan(eps))
            continue;
        worst = eps;
        report_int(r, "spectral_head", head);
        report_real(r, "error_norm", error);
        report_real(r, "softmax_norm", norms[head].softmax);
        report_real(r, "v_norm", norms[head].v);
        report_real(r, "eps", eps);
    }
    report_json(r, "spectral", list);
    buffer_free(approx);
    return status;
}
