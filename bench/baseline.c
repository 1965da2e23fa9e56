/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "baseline.h"

#include <limits.h>
#include <math.h>

#include "memory.h"
#include "message.h"

#ifdef HAVE_OPENBLAS

#include <cblas.h>

#include "internals.h"

bool baseline_built_in(void)
{
    return true;
}

const char *baseline_config(void)
{
    return openblas_get_config();
}

const char *baseline_parallel(void)
{
    static const char *const names[] = {"sequential", "pthread", "openmp"};
    int kind = openblas_get_parallel();
    return kind >= 0 && kind <= 2 ? names[kind] : "unknown";
}

/* Keys that row i sees. */
static int64_t visible_keys(const hyperattn_problem *p, int64_t i)
{
    if (!p->causal)
        return p->seqlen_k;
    int64_t n = i + 1 + p->seqlen_k - p->seqlen_q;
    return n < 0 ? 0 : n;
}

/* One row of scores, already times scale * log2(e), to probabilities. */
static void softmax_row(const ha_kernels *kernels, float *x, int64_t visible, int64_t n)
{
    float max = -INFINITY, sum = 0;
    for (int64_t j = 0; j < visible; j++)
        max = x[j] > max ? x[j] : max;
    for (int64_t j = 0; j < visible; j++)
        x[j] -= max;
    kernels->exp2(x, visible);
    for (int64_t j = 0; j < visible; j++)
        sum += x[j];
    float inverse = visible ? 1 / sum : 0;
    for (int64_t j = 0; j < visible; j++)
        x[j] *= inverse;
    for (int64_t j = visible; j < n; j++)
        x[j] = 0;
}

/* Rows that a thread takes at a time. */
enum { ROWS = 16 };

static void softmax_rows(void *baseline_pointer, int64_t i, int thread)
{
    const baseline *b = baseline_pointer;
    const hyperattn_problem *p = &b->problem;
    (void)thread;
    for (int64_t row = i * ROWS; row < (i + 1) * ROWS && row < p->seqlen_q; row++)
        softmax_row(b->kernels, b->scores + row * p->seqlen_k, visible_keys(p, row), p->seqlen_k);
}

static void one_head(baseline *b, const float *q, const float *k, const float *v, float *out)
{
    const hyperattn_problem *p = &b->problem;
    int nq = (int)p->seqlen_q, nk = (int)p->seqlen_k, d = (int)p->head_dim, dv = (int)p->head_dim_v;
    float scale = p->softmax_scale != 0 ? p->softmax_scale : 1 / sqrtf((float)d);
    /* scores in the log2 domain, so that the library's own vector exponential can be used */
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, nq, nk, d, scale * 1.44269504f, q, d, k, d,
                0, b->scores, nk);
    run_parallel(b->threads, (p->seqlen_q + ROWS - 1) / ROWS, softmax_rows, b);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, nq, dv, nk, 1, b->scores, nk, v, dv, 0,
                out, dv);
}

int baseline_run(void *baseline_pointer, int call)
{
    baseline *b = baseline_pointer;
    (void)call;
    const hyperattn_problem *p = &b->problem;
    const float *q = b->in->q.data, *k = b->in->k.data, *v = b->in->v.data;
    int64_t group = p->nheads / p->nheads_kv;
    b->kernels = best_kernels();
    openblas_set_num_threads(b->threads);
    for (int64_t batch = 0; batch < p->batch; batch++) {
        for (int64_t head = 0; head < p->nheads; head++) {
            int64_t head_kv = head / group;
            one_head(b, q + batch * p->q_stride[0] + head * p->q_stride[1],
                     k + batch * p->k_stride[0] + head_kv * p->k_stride[1],
                     v + batch * p->v_stride[0] + head_kv * p->v_stride[1],
                     b->out + batch * p->out_stride[0] + head * p->out_stride[1]);
        }
    }
    return STATUS_OK;
}

#else

bool baseline_built_in(void)
{
    return false;
}

const char *baseline_config(void)
{
    return NULL;
}

const char *baseline_parallel(void)
{
    return NULL;
}

int baseline_run(void *baseline_pointer, int call)
{
    (void)baseline_pointer;
    (void)call;
    return failed("built without OpenBLAS");
}

#endif

size_t baseline_bytes(const hyperattn_problem *problem)
{
    int64_t factors[] = {problem->seqlen_q, problem->seqlen_k, (int64_t)sizeof(float)};
    size_t bytes;
    bool addressable = problem->seqlen_q <= INT_MAX && problem->seqlen_k <= INT_MAX &&
                       problem->head_dim <= INT_MAX && problem->head_dim_v <= INT_MAX;
    return addressable && size_product(&bytes, 3, factors) ? bytes : SIZE_MAX;
}

int baseline_open(baseline *b, const hyperattn_problem *problem, const input *in, float *out,
                  int threads)
{
    *b = (baseline){.problem = *problem, .in = in, .out = out, .threads = threads};
    b->scores = buffer_alloc(baseline_bytes(problem), "scores of the baseline");
    return b->scores ? STATUS_OK : STATUS_FAILED;
}

void baseline_close(baseline *b)
{
    buffer_free(b->scores);
    *b = (baseline){0};
}
