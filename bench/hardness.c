/* SPDX-License-Identifier: Apache-2.0 */
#include "hardness.h"

#include <math.h>

#include "memory.h"
#include "message.h"
#include "softmax.h"

/* lse [nq] of a method: logarithms of its row sums. */
static int row_sums(float *lse, hyperattn_ctx *ctx, const hyperattn_problem *head,
                    const hyperattn_params *params, const float *q, const float *k)
{
    softmax s;
    int status = softmax_open(&s, ctx, head, params, q, k);
    if (status == STATUS_OK)
        status = softmax_times(&s);
    for (int64_t i = 0; i < head->seqlen_q && status == STATUS_OK; i++)
        lse[i] = s.lse[i];
    softmax_close(&s);
    return status;
}

/* ---- alpha ---------------------------------------------------------------------------------- */

static double largest(const float *x, int64_t n)
{
    double most = NAN;
    for (int64_t j = 0; j < n; j++)
        most = fmax(most, x[j]);
    return most;
}

/* With twice the scale the softmax is P2_ij = P_ij^2 / w_i, where w_i = exp(lse2_i - 2 lse_i) is
 * the sum of P_ij^2 over j; so the squared column norms of P are P2' w. */
static int find_alpha(hardness *h, hyperattn_ctx *ctx, const hyperattn_problem *head,
                      const hyperattn_params *exact, int64_t sinks, const float *q,
                      const float *k, const float *lse)
{
    hyperattn_problem twice = *head;
    softmax s;
    float scale = head->softmax_scale;
    twice.softmax_scale = 2 * (scale != 0 ? scale : 1 / sqrtf((float)head->head_dim));
    int status = softmax_open(&s, ctx, &twice, exact, q, k);
    if (status == STATUS_OK)
        status = softmax_times(&s);
    for (int64_t i = 0; i < s.nq && status == STATUS_OK; i++) /* a row without keys has weight 0 */
        s.y[i] = isinf(lse[i]) ? 0 : expf(s.lse[i] - 2 * lse[i]);
    if (status == STATUS_OK)
        status = softmax_transposed(&s);
    if (status == STATUS_OK) {
        double keys = (double)s.nk;
        int64_t first = sinks < s.nk ? sinks : s.nk;
        h->alpha = keys * largest(s.xt, s.nk);
        h->alpha_beside = keys * largest(s.xt + first, s.nk - first);
    }
    softmax_close(&s);
    return status;
}

/* ---- kappa ---------------------------------------------------------------------------------- */

/* From the logarithms of the whole row sums and of the parts in exact columns. */
static void set_kappa(hardness *h, const float *lse, const float *part, int64_t nq)
{
    double low = INFINITY, high = -INFINITY;
    h->kappa_rows = 0;
    for (int64_t i = 0; i < nq; i++) {
        double share = -expm1((double)part[i] - lse[i]);
        /* rounding of lse is relative to it; NaN where a row sees no key */
        if (!(share >= HARDNESS_SHARE * fmax(1, fabs(lse[i]) / 100)))
            continue;
        double left = lse[i] + log(share);
        low = fmin(low, left);
        high = fmax(high, left);
        h->kappa_rows++;
    }
    h->kappa = h->kappa_rows ? exp(high - low) : NAN;
}

int hardness_measure(hardness *h, hyperattn_ctx *ctx, const hyperattn_problem *head,
                     const hyperattn_params *params, const float *q, const float *k)
{
    int64_t nq = head->seqlen_q;
    hyperattn_params exact = *params, columns = *params;
    exact.method = HYPERATTN_EXACT;
    /* without samples HyperAttention is its exact columns */
    columns.method = HYPERATTN_HYPER;
    columns.sample_size = 0;
    columns.kappa_cap = 0;
    float *lse = buffer_alloc(2 * (size_t)nq * sizeof *lse, "row sums");
    int status = lse ? row_sums(lse, ctx, head, &exact, q, k) : STATUS_FAILED;
    if (status == STATUS_OK)
        status = row_sums(lse + nq, ctx, head, &columns, q, k);
    if (status == STATUS_OK)
        status = find_alpha(h, ctx, head, &exact, params->num_sinks, q, k, lse);
    if (status == STATUS_OK)
        set_kappa(h, lse, lse + nq, nq);
    buffer_free(lse);
    return status;
}
