/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <string.h>

#include "kern_grad.h"

static int sum(const int *counts, int n)
{
    int total = 0;
    for (int i = 0; i < n; i++)
        total += counts[i];
    return total;
}

int grad_rows(const grad_problem *p)
{
    return sum(p->rows, p->tiles);
}

int grad_keys(const grad_problem *p)
{
    return sum(p->keys, p->chunks);
}

int grad_of_keys(grad_array array)
{
    return array == GRAD_K || array == GRAD_K_SUM || array == GRAD_V;
}

int grad_columns(const grad_problem *p, grad_array array)
{
    return array >= GRAD_V ? p->dv : p->head_dim;
}

void grad_fill(grad_problem *p, rng *r)
{
    for (int a = 0; a < GRAD_ARRAYS; a++) {
        int rows = grad_of_keys((grad_array)a) ? grad_keys(p) : grad_rows(p);
        int n = rows * grad_columns(p, (grad_array)a);
        for (int i = 0; i < n; i++)
            element_put(p->data[a], i, p->dtype, rng_gauss(r));
    }
    memset(p->logw, 0, sizeof p->logw);
    for (int i = 0; i < grad_rows(p); i++)
        p->delta[i] = (float)rng_gauss(r);
    p->has_limit = p->has_cap = 0;
    p->scale = 1.4427f / sqrtf((float)p->head_dim);
}

/* ---- running --------------------------------------------------------------------------------- */

enum { LOGW = GRAD_ARRAYS, LIMIT, CAP, LSE, DELTA, INPUTS, DQ = INPUTS, DK, DV, CAPPED, SCRATCH,
       BUFFERS };

typedef struct grad_memory {
    guarded g[BUFFERS];
    ha_grad_tile tile;
} grad_memory;

static ha_rows rows_of(const grad_problem *p, grad_array array, int first)
{
    return (ha_rows){p->data[array], grad_columns(p, array), NULL, first, p->dtype};
}

/* A query tile or key panels of n rows, flush against the guard page. */
static const void *panels_new(const kern_run *run, const grad_problem *p, grad_memory *mem,
                              grad_array array, int first, int n)
{
    const ha_arith *a = run->arith;
    ha_rows rows = rows_of(p, array, first);
    int columns = grad_columns(p, array), keys = grad_of_keys(array);
    mem->g[array] = keys ? guarded_new(ha_k_bytes(a, n, columns), p->at)
                         : kern_floats(ha_round_up(n, a->mr) * ha_ldq(a, columns), p->at);
    (keys ? a->pack_k : a->load_q)(mem->g[array].data, &rows, n, columns);
    guarded_read_only(&mem->g[array]);
    return mem->g[array].data;
}

/* A column pack of `units` units that holds NaN except for n rows. */
static const void *columns_new(const kern_run *run, const grad_problem *p, grad_memory *mem,
                               grad_array array, int first, int n, int64_t units, int64_t at)
{
    const ha_arith *a = run->arith;
    ha_rows rows = rows_of(p, array, first);
    int columns = grad_columns(p, array);
    mem->g[array] = kern_floats(units * ha_padded_columns(a, columns), p->at);
    a->pack_v(mem->g[array].data, units, at, &rows, n, columns);
    guarded_read_only(&mem->g[array]);
    return mem->g[array].data;
}

/* n numbers of a row each, and the padding's. */
static const void *numbers_new(const kern_run *run, const grad_problem *p, grad_memory *mem, int i,
                               const float *from, int n, float padding)
{
    int64_t padded = ha_round_up(n, i == LOGW ? run->arith->nr : run->arith->mr);
    mem->g[i] = kern_floats(padded, p->at);
    for (int64_t x = 0; x < padded; x++)
        ((float *)mem->g[i].data)[x] = x < n ? from[x] : padding;
    guarded_read_only(&mem->g[i]);
    return mem->g[i].data;
}

static const int32_t *limits_new(const kern_run *run, const grad_problem *p, grad_memory *mem,
                                 const int *limit, int rows, int first)
{
    int64_t padded = ha_round_up(rows, run->arith->mr);
    mem->g[LIMIT] = kern_floats(padded, p->at);
    int32_t *to = (int32_t *)mem->g[LIMIT].data;
    for (int64_t i = 0; i < padded; i++)
        to[i] = limit[i < rows ? i : rows - 1] - first;
    guarded_read_only(&mem->g[LIMIT]);
    return to;
}

/* Sums of n rows, and a gap between them that must not be written. */
static float *sums_new(const grad_problem *p, grad_memory *mem, int i,
                       const float (*from)[GRAD_DIM], int n, int64_t padded, int64_t ld)
{
    mem->g[i] = kern_floats((n - 1) * ld + padded, p->at);
    float *to = (float *)mem->g[i].data;
    for (int x = 0; x < n; x++)
        for (int64_t c = 0; c < padded; c++)
            to[x * ld + c] = from[x][c];
    return to;
}

static const char *sums_get(const grad_memory *mem, int i, float (*to)[GRAD_DIM], int n,
                            int64_t padded, int64_t ld)
{
    const float *from = (const float *)mem->g[i].data;
    for (int x = 0; x < n; x++) {
        for (int64_t c = 0; c < padded; c++)
            to[x][c] = from[x * ld + c];
        for (int64_t c = padded; c < ld && x < n - 1; c++)
            if (!is_signalling(from, x * ld + c, HYPERATTN_F32))
                return failure("row %d of sums %d was written behind its columns", x, i - DQ);
    }
    return NULL;
}

/* Rows [row, row + tile.rows) and keys [key, key + tile.keys). */
static void inputs_new(const kern_run *run, const grad_problem *p, grad_memory *mem, int row,
                       int key)
{
    const ha_arith *a = run->arith;
    ha_grad_tile *t = &mem->tile;
    t->q = panels_new(run, p, mem, GRAD_Q, row, t->rows);
    t->dout = panels_new(run, p, mem, GRAD_DOUT, row, t->rows);
    t->k = panels_new(run, p, mem, GRAD_K, key, t->keys);
    t->v = panels_new(run, p, mem, GRAD_V, key, t->keys);
    t->q_sum = columns_new(run, p, mem, GRAD_Q_SUM, row, t->rows, t->rpanel, t->rfirst);
    t->dout_sum = columns_new(run, p, mem, GRAD_DOUT_SUM, row, t->rows, t->rpanel, t->rfirst);
    t->k_sum = columns_new(run, p, mem, GRAD_K_SUM, key, t->keys, t->kpanel, t->kfirst);
    t->logw = numbers_new(run, p, mem, LOGW, p->logw + key, t->keys, -INFINITY);
    t->lse = numbers_new(run, p, mem, LSE, p->lse + row, t->rows, INFINITY);
    t->delta = numbers_new(run, p, mem, DELTA, p->delta + row, t->rows, 0);
    if (p->has_cap)
        t->cap = numbers_new(run, p, mem, CAP, p->cap + row, t->rows, 0);
    if (p->has_limit)
        t->limit = limits_new(run, p, mem, p->limit + row, t->rows, key);
    mem->g[SCRATCH] = guarded_workspace((size_t)a->grad_scratch * 4);
    t->scratch = (float *)mem->g[SCRATCH].data;
    fill_signalling(t->scratch, a->grad_scratch, HYPERATTN_F32);
}

static const char *check_memory(const grad_memory *mem)
{
    static const char *const names[] = {"dq", "dk", "dv", "capped", "scratch"};
    for (int i = INPUTS; i < BUFFERS; i++) {
        const char *why = mem->g[i].pages ? guarded_check(&mem->g[i]) : NULL;
        if (why)
            return failure("%s: %s", names[i - INPUTS], why);
    }
    return NULL;
}

/* One call. */
static const char *run_tile(const kern_run *run, const grad_problem *p, grad_memory *mem, int row,
                            int key, grad_state *state)
{
    const ha_arith *a = run->arith;
    ha_grad_tile *t = &mem->tile;
    int64_t columns = ha_padded_columns(a, p->head_dim), columns_v = ha_padded_columns(a, p->dv);
    t->lddq = columns + (t->rows % 2 ? 5 : 0);
    t->lddk = columns + (t->keys % 2 ? 3 : 0);
    t->lddv = columns_v + (t->keys % 3 ? 2 : 0);
    t->dq = sums_new(p, mem, DQ, state->dq + row, t->rows, columns, t->lddq);
    t->dk = sums_new(p, mem, DK, state->dk + key, t->keys, columns, t->lddk);
    t->dv = sums_new(p, mem, DV, state->dv + key, t->keys, columns_v, t->lddv);
    inputs_new(run, p, mem, row, key);
    if (p->has_cap) {
        mem->g[CAPPED] = kern_floats(ha_round_up(t->rows, a->mr), p->at);
        t->capped = (float *)mem->g[CAPPED].data;
        memcpy(t->capped, state->capped + row, (size_t)t->rows * sizeof *t->capped);
    }
    a->backward(t);
    const char *why = check_memory(mem);
    if (p->has_cap)
        memcpy(state->capped + row, t->capped, (size_t)t->rows * sizeof *t->capped);
    if (!why)
        why = sums_get(mem, DQ, state->dq + row, t->rows, columns, t->lddq);
    if (!why)
        why = sums_get(mem, DK, state->dk + key, t->keys, columns, t->lddk);
    return why ? why : sums_get(mem, DV, state->dv + key, t->keys, columns_v, t->lddv);
}

const char *grad_run(const kern_run *run, const grad_problem *p, grad_state *state)
{
    const ha_arith *a = run->arith;
    int64_t rpanel = 0, kpanel = 0, rfirst = 0, kfirst;
    const char *why = NULL;
    for (int i = 0; i < p->tiles; i++)
        rpanel += ha_round_up(p->rows[i], a->nr) / a->pair;
    for (int j = 0; j < p->chunks; j++)
        kpanel += ha_round_up(p->keys[j], a->nr) / a->pair;
    for (int i = 0, row = 0; i < p->tiles && !why; row += p->rows[i++]) {
        kfirst = 0;
        for (int j = 0, key = 0; j < p->chunks && !why; key += p->keys[j++]) {
            grad_memory mem = {
                .tile = {.rows = p->rows[i], .keys = p->keys[j], .head_dim = p->head_dim,
                         .head_dim_v = p->dv, .scale = p->scale, .rpanel = rpanel, .rfirst = rfirst,
                         .kpanel = kpanel, .kfirst = kfirst},
            };
            why = run_tile(run, p, &mem, row, key, state);
            for (int x = 0; x < BUFFERS; x++)
                guarded_free(&mem.g[x]);
            kfirst += ha_round_up(p->keys[j], a->nr) / a->pair;
        }
        rfirst += ha_round_up(p->rows[i], a->nr) / a->pair;
    }
    return why;
}
