/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/merge.h"

#include <math.h>

#include "cpu/cpu_backend.h"
#include "parallel.h"

/* Rows that one item takes, and columns of a row that it holds at a time. */
#define ROWS 256
#define COLUMNS 256
#define MAX_MR 8

typedef struct merging {
    const ha_plan *plan;
    void *out;
    float *lse;
    const void *out2;
    const float *lse2;
    int64_t chunks; /* of rows, per head */
} merging;

/* Multiply-adds that make it worth while to wake a thread. */
#define WORK_PER_THREAD 1e6

/* Weights of the two parts and the new lse. A part that saw no key (lse -inf) gets 0, and is then
 * left out whatever it holds; a NaN in either lse makes both weights and the lse NaN. */
static float weigh(float a, float b, float *wa, float *wb)
{
    float top = a > b || b == -INFINITY ? a : b; /* NaN, if a part that saw a key is */
    if (top == -INFINITY) {
        *wa = *wb = 0;
        return top;
    }
    float ea = a == -INFINITY ? 0 : expf(a - top), eb = b == -INFINITY ? 0 : expf(b - top);
    float sum = ea + eb;
    *wa = ea / sum;
    *wb = eb / sum;
    return top + logf(sum);
}

/* One row of the tensors from element `at` on: out = wa out + wb out2. */
static void merge_row(const merging *m, int64_t at, int has_a, float wa, int has_b, float wb)
{
    const hyperattn_problem *p = m->plan->problem;
    const ha_kernels *kernels = ha_cpu_kernels(m->plan);
    float a[MAX_MR * COLUMNS], b[MAX_MR * COLUMNS];
    const float one = 1;
    for (int64_t c = 0; c < p->head_dim_v; c += COLUMNS) {
        int64_t n = p->head_dim_v - c < COLUMNS ? p->head_dim_v - c : COLUMNS;
        int64_t byte = (at + c) * (p->dtype == HYPERATTN_F32 ? 4 : 2);
        const ha_rows from = {.base = (const char *)m->out + byte, .dtype = p->dtype};
        const ha_rows from2 = {.base = (const char *)m->out2 + byte, .dtype = p->dtype};
        const ha_out_rows to = {.base = (char *)m->out + byte, .dtype = p->dtype};
        kernels->f32.load_q(a, &from, 1, n);
        kernels->f32.load_q(b, &from2, 1, n);
        for (int64_t i = 0; i < n; i++)
            a[i] = (has_a ? wa * a[i] : 0) + (has_b ? wb * b[i] : 0);
        kernels->store_rows(&to, a, COLUMNS, &one, 1, n);
    }
}

/* The rows of a ragged batch lie one sequence behind the other: for merging, they are one. */
static ha_sequence sequence_of(const ha_plan *plan, int64_t b)
{
    const hyperattn_problem *p = plan->problem;
    if (!p->cu_seqlens_q)
        return ha_plan_sequence(plan, b);
    int64_t rows = p->cu_seqlens_q[p->batch];
    return (ha_sequence){.nq = rows, .lse_head = rows};
}

static void merge_rows(void *arg, int64_t i, int thread)
{
    const merging *m = arg;
    const hyperattn_problem *p = m->plan->problem;
    (void)thread;
    int64_t row = i % m->chunks * ROWS, head = i / m->chunks % p->nheads;
    ha_sequence seq = sequence_of(m->plan, i / m->chunks / p->nheads);
    for (int64_t end = row + ROWS < seq.nq ? row + ROWS : seq.nq; row < end; row++) {
        int64_t l = seq.lse + head * seq.lse_head + row;
        float wa, wb, lse = m->lse[l], lse2 = m->lse2[l];
        m->lse[l] = weigh(lse, lse2, &wa, &wb);
        merge_row(m, seq.out + head * p->out_stride[1] + row * p->out_stride[2], lse != -INFINITY,
                  wa, lse2 != -INFINITY, wb);
    }
}

hyperattn_status ha_merge(const ha_plan *plan, void *out, float *lse, const void *out2,
                          const float *lse2)
{
    const hyperattn_problem *p = plan->problem;
    int64_t nq = sequence_of(plan, 0).nq, sequences = p->cu_seqlens_q ? 1 : p->batch;
    merging m = {plan, out, lse, out2, lse2, (nq + ROWS - 1) / ROWS};
    double rows = (double)sequences * (double)p->nheads * (double)nq;
    double most = rows * (double)p->head_dim_v / WORK_PER_THREAD;
    int nthreads = plan->device->nthreads;
    ha_parallel(most < 1 ? 1 : most < nthreads ? (int)most : nthreads,
                sequences * p->nheads * m.chunks, merge_rows, &m);
    return HYPERATTN_OK;
}
