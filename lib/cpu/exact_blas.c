/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/exact_blas.h"

#include "config.h"

#ifdef HAVE_OPENBLAS
#include <cblas.h>
#include <math.h>
#include <string.h>

#include "cpu/clock.h"
#include "cpu/state.h"
#include "int64.h"
#include "parallel.h"

/* The scratch's tile holds the scores, then two copies of acc. */
int64_t ha_exact_blas_scratch(int64_t ldacc)
{
    return HA_TASK_ROWS * (HA_TASK_KEYS + 2 * ldacc);
}

static float *copies_of_acc(const ha_scratch *s)
{
    return s->tile + HA_TASK_ROWS * HA_TASK_KEYS;
}

int ha_exact_blas_serves(const ha_plan *plan)
{
    return ha_cpu_kernels(plan) == &ha_kernels_ref && plan->params->method == HYPERATTN_EXACT;
}

/* Rows of one query head against one chunk of keys; buffers are those of the scratch, rows of
 * width d or dv. */
typedef struct chunk {
    const ha_run *run;
    ha_scratch *s;
    int64_t rows, keys;
    int64_t limit; /* keys that the first row sees; each later row sees slope more */
    int64_t slope;
} chunk;

static int64_t keys_of(const chunk *c, int64_t i)
{
    int64_t keys = c->limit + c->slope * i;
    return keys < 0 ? 0 : ha_min(keys, c->keys);
}

/* Online softmax of row i of the scores, in the log2 domain. */
static void softmax_row(const chunk *c, int64_t i)
{
    ha_scratch *s = c->s;
    float *score = s->tile + i * HA_TASK_KEYS, top = s->m[i];
    int64_t keys = keys_of(c, i), dv = c->run->cpu->ldacc;
    for (int64_t j = 0; j < keys; j++)
        top = score[j] > top ? score[j] : top;
    if (top > s->m[i] && s->m[i] != -INFINITY) {
        float alpha = exp2f(s->m[i] - top);
        s->l[i] *= alpha;
        for (int64_t x = 0; x < dv; x++)
            s->acc[i * dv + x] *= alpha;
    }
    s->m[i] = top;
    for (int64_t j = 0; j < keys; j++)
        score[j] -= top == -INFINITY ? 0 : top;
    ha_run_kernels(c->run)->exp2(score, keys);
    for (int64_t j = 0; j < keys; j++)
        s->l[i] += score[j];
    for (int64_t j = keys; j < c->keys; j++)
        score[j] = 0;
}

/* acc += P V without OpenBLAS. */
static void values_by_hand(const chunk *c)
{
    int64_t dv = c->run->plan->problem->head_dim_v;
    for (int64_t i = 0; i < c->rows; i++)
        for (int64_t j = 0; j < keys_of(c, i); j++)
            for (int64_t x = 0; x < dv; x++)
                c->s->acc[i * c->run->cpu->ldacc + x] +=
                    c->s->tile[i * HA_TASK_KEYS + j] * ((const float *)c->s->vpack)[j * dv + x];
}

/* acc += P V by OpenBLAS. */
static void values(const chunk *c)
{
    int dv = (int)c->run->plan->problem->head_dim_v;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)c->rows, dv, (int)c->keys, 1,
                c->s->tile, HA_TASK_KEYS, c->s->vpack, dv, 1, c->s->acc, (int)c->run->cpu->ldacc);
}

static int is_finite_row(const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return 0;
    return 1;
}

/* The values of a masked chunk, where 0 * NaN must not reach rows that do not see the key. From the
 * last row upwards, each value row that is not finite is set to zero as soon as no row sees it, and
 * the product is made again for the rows above: always the whole one, so that a row's bits do not
 * depend on what it does not see. */
static void values_masked(const chunk *c)
{
    int64_t dv = c->run->plan->problem->head_dim_v, n = c->rows * c->run->cpu->ldacc;
    float *v = c->s->vpack, *before = copies_of_acc(c->s), *after = before + n;
    int64_t done = c->rows;
    memcpy(before, c->s->acc, (size_t)n * sizeof *before);
    for (int64_t key = c->keys - 1; key >= -1 && done > 0; key--) {
        if (key >= 0 && is_finite_row(v + key * dv, dv))
            continue;
        int64_t first = done; /* rows from here on see the key */
        while (first > 0 && keys_of(c, first - 1) > key)
            first--;
        if (first < done) {
            memcpy(c->s->acc, before, (size_t)n * sizeof *before);
            values(c);
            memcpy(after + first * c->run->cpu->ldacc, c->s->acc + first * c->run->cpu->ldacc,
                   (size_t)((done - first) * c->run->cpu->ldacc) * sizeof *after);
            done = first;
        }
        if (key >= 0)
            memset(v + key * dv, 0, (size_t)dv * sizeof *v);
    }
    memcpy(c->s->acc, after, (size_t)n * sizeof *after);
}

/* scores = scale Q K^T without OpenBLAS */
static void scores_by_hand(const chunk *c, float scale)
{
    int64_t d = c->run->plan->problem->head_dim;
    for (int64_t i = 0; i < c->rows; i++)
        for (int64_t j = 0; j < c->keys; j++) {
            const float *q = (const float *)c->s->q + i * d;
            const float *k = (const float *)c->s->kpack + j * d;
            float sum = 0;
            for (int64_t x = 0; x < d; x++)
                sum += q[x] * k[x];
            c->s->tile[i * HA_TASK_KEYS + j] = scale * sum;
        }
}

static void attend_chunk(const chunk *c)
{
    const hyperattn_problem *p = c->run->plan->problem;
    ha_scratch *s = c->s;
    int d = (int)p->head_dim, dv = (int)p->head_dim_v, blas = !ha_in_parallel();
    float scale = p->softmax_scale * HA_LOG2E;
    if (blas)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)c->rows, (int)c->keys, d, scale,
                    s->q, d, s->kpack, d, 0, s->tile, HA_TASK_KEYS);
    else
        scores_by_hand(c, scale);
    for (int64_t i = 0; i < c->rows; i++)
        softmax_row(c, i);
    if (!blas)
        values_by_hand(c);
    else if (c->limit < c->keys && !is_finite_row(s->vpack, c->keys * dv))
        values_masked(c);
    else
        values(c);
}

static void attend_rows(ha_run *run, ha_unit *u, int64_t head, int64_t row0, int64_t rows)
{
    const hyperattn_problem *p = run->plan->problem;
    ha_scratch *s = &run->scratch[0];
    int64_t nk = u->layout->nk, causal = p->causal;
    int64_t last = causal ? row0 + nk - u->layout->nq + 1 : nk; /* keys of the first row */
    int64_t end = ha_min(nk, last + causal * (rows - 1));
    ha_rows q = u->q[head], k = u->k, v = u->v;
    q.first = row0;
    run->cpu->arith->load_q(s->q, &q, rows, p->head_dim);
    ha_state_clear(run, s, rows);
    for (int64_t x = 0; x < end; x += HA_TASK_KEYS) {
        const chunk c = {run, s, rows, ha_min(HA_TASK_KEYS, end - x), last - x, causal};
        k.first = v.first = x;
        run->cpu->arith->load_q(s->kpack, &k, c.keys, p->head_dim);
        run->cpu->arith->load_q(s->vpack, &v, c.keys, p->head_dim_v);
        attend_chunk(&c);
    }
    ha_state_finish(run, s, &(ha_state_rows){u, head, NULL, row0, rows});
}

void ha_exact_blas(ha_run *run)
{
    double start = ha_clock(run->plan);
    for (int64_t i = 0; i < run->nunits; i++) {
        ha_unit *u = &run->units[i];
        for (int64_t head = 0; head < run->cpu->group; head++)
            for (int64_t row = 0; row < u->layout->nq; row += HA_TASK_ROWS)
                attend_rows(run, u, head, row, ha_min(HA_TASK_ROWS, u->layout->nq - row));
    }
    ha_clock_add(run, 0, HA_STAGE_LEAF, start);
}

#else

int ha_exact_blas_serves(const ha_plan *plan)
{
    (void)plan;
    return 0;
}

int64_t ha_exact_blas_scratch(int64_t ldacc)
{
    (void)ldacc;
    return 0;
}

void ha_exact_blas(ha_run *run)
{
    (void)run;
}

#endif
