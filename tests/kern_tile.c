/* SPDX-License-Identifier: Apache-2.0 */
#include "kern_tile.h"

#include <math.h>
#include <string.h>

int tile_total(const tile_problem *p)
{
    int total = 0;
    for (int t = 0; t < p->chunks; t++)
        total += p->keys[t];
    return total;
}

static void fill_gauss(void *array, int64_t n, hyperattn_dtype dtype, rng *r)
{
    for (int64_t i = 0; i < n; i++)
        element_put(array, i, dtype, rng_gauss(r));
}

void tile_fill(tile_problem *p, rng *r)
{
    int total = tile_total(p);
    fill_gauss(p->q, (int64_t)p->rows * p->head_dim, p->dtype, r);
    fill_gauss(p->k, (int64_t)total * p->head_dim, p->dtype, r);
    fill_gauss(p->v, (int64_t)total * p->dv, p->dtype, r);
    memset(p->logw, 0, sizeof p->logw);
    p->has_limit = p->has_cap = p->careful = 0;
    p->scale = 1.4427f / sqrtf((float)p->head_dim);
}

void tile_limit_randomly(tile_problem *p, rng *r)
{
    int limit = (int)rng_below(r, 8) - 4, total = tile_total(p);
    p->has_limit = 1;
    for (int i = 0; i < p->rows; i++)
        p->limit[i] = limit += (int)rng_below(r, 1 + 2 * total / p->rows);
}

void tile_cap_randomly(tile_problem *p, rng *r)
{
    p->has_cap = 1;
    for (int i = 0; i < p->rows; i++)
        p->cap[i] = rng_below(r, 4) ? (float)rng_gauss(r) - 1 : INFINITY;
}

void tile_same_row(kern_worst *w, const tile_problem *p, const tile_state *before,
                   const tile_state *after, int i)
{
    kern_same_bits(w, "m", 0, i, kern_bits(before->m[i]), kern_bits(after->m[i]), 8);
    kern_same_bits(w, "l", 0, i, kern_bits(before->l[i]), kern_bits(after->l[i]), 8);
    for (int c = 0; c < p->dv; c++)
        kern_same_bits(w, "acc", i, c, kern_bits(before->acc[i][c]), kern_bits(after->acc[i][c]),
                       8);
}

/* ---- running --------------------------------------------------------------------------------- */

enum { Q, K, V, LOGW, LIMIT, CAP, AHEAD, M, L, ACC, SCRATCH, BUFFERS };

typedef struct tile_memory {
    guarded g[BUFFERS];
    ha_tile tile;
    int64_t padded; /* rows */
    int padded_dv;
} tile_memory;

/* Accumulators and the pack of values. Odd row counts get accumulators with a gap between rows. */
static void values_new(const tile_problem *p, tile_memory *mem)
{
    ha_tile *t = &mem->tile;
    t->ldacc = mem->padded_dv + (p->rows % 2 ? 5 : 0);
    mem->g[ACC] = kern_floats(mem->padded * t->ldacc, p->at);
    mem->g[V] = kern_floats(t->vpanel * mem->padded_dv, p->at);
    t->acc = (float *)mem->g[ACC].data;
    t->v = mem->g[V].data;
    for (int64_t i = 0; i < mem->padded; i++)
        memset(t->acc + i * t->ldacc, 0, (size_t)mem->padded_dv * sizeof *t->acc);
}

static void caps_new(const tile_problem *p, tile_memory *mem)
{
    mem->g[CAP] = kern_floats(mem->padded, p->at);
    for (int64_t i = 0; i < mem->padded; i++)
        ((float *)mem->g[CAP].data)[i] = i < p->rows ? p->cap[i] : 0;
    mem->tile.cap = (const float *)mem->g[CAP].data;
    guarded_read_only(&mem->g[CAP]);
}

/* Rows ahead are hints: here, addresses at which nothing may be read. */
static void ahead_new(const tile_problem *p, tile_memory *mem)
{
    int64_t count = 7 * (p->rows % 5);
    mem->g[AHEAD] = guarded_workspace((size_t)count * sizeof(void *));
    const void **row = (const void **)mem->g[AHEAD].data;
    for (int64_t i = 0; i < count; i++)
        row[i] = (const void *)((uintptr_t)i << 40);
    mem->tile.ahead = row;
    mem->tile.nahead = count;
    mem->tile.ahead_bytes = 256;
    guarded_read_only(&mem->g[AHEAD]);
}

static tile_memory memory_new(const kern_run *run, const tile_problem *p)
{
    const ha_arith *a = run->arith;
    tile_memory mem = {.padded = ha_round_up(p->rows, a->mr)};
    mem.padded_dv = (int)ha_padded_columns(a, p->dv);
    ha_tile *t = &mem.tile;
    *t = (ha_tile){.rows = p->rows, .head_dim = p->head_dim, .head_dim_v = p->dv, .scale = p->scale,
                   .careful = p->careful};
    mem.g[Q] = kern_floats(mem.padded * ha_ldq(a, p->head_dim), p->at);
    mem.g[M] = kern_floats(mem.padded, p->at);
    mem.g[L] = kern_floats(mem.padded, p->at);
    mem.g[SCRATCH] = guarded_workspace((size_t)ha_tile_scratch(a) * 4);
    t->q = mem.g[Q].data;
    t->m = (float *)mem.g[M].data;
    t->l = (float *)mem.g[L].data;
    t->scratch = (float *)mem.g[SCRATCH].data;
    for (int64_t i = 0; i < mem.padded; i++) {
        t->m[i] = -INFINITY;
        t->l[i] = 0;
    }
    for (int n = 0; n < p->chunks; n++)
        t->vpanel += ha_round_up(p->keys[n], a->nr) / a->pair;
    if (p->dv > 0)
        values_new(p, &mem);
    ha_rows q = {p->q, p->head_dim, NULL, 0, p->dtype};
    a->load_q(mem.g[Q].data, &q, p->rows, p->head_dim);
    guarded_read_only(&mem.g[Q]);
    if (p->has_cap)
        caps_new(p, &mem);
    if (p->rows % 5)
        ahead_new(p, &mem);
    return mem;
}

static void memory_free(tile_memory *mem)
{
    for (int i = 0; i < BUFFERS; i++)
        guarded_free(&mem->g[i]);
}

/* Packs a chunk's keys, weights and limits, each flush against its guard page. */
static void enter_chunk(const kern_run *run, const tile_problem *p, tile_memory *mem, int first,
                        int keys)
{
    const ha_arith *a = run->arith;
    ha_tile *t = &mem->tile;
    size_t size = dtype_size(p->dtype);
    int64_t padded = ha_round_up(keys, a->nr);
    mem->g[K] = guarded_new(ha_k_bytes(a, keys, p->head_dim), p->at);
    ha_rows k = {(const char *)p->k + (size_t)(first * p->head_dim) * size, p->head_dim, NULL, 0,
                 p->dtype};
    a->pack_k(mem->g[K].data, &k, keys, p->head_dim);
    mem->g[LOGW] = kern_floats(padded, p->at);
    for (int64_t j = 0; j < padded; j++)
        ((float *)mem->g[LOGW].data)[j] = j < keys ? p->logw[first + j] : -INFINITY;
    t->k = mem->g[K].data;
    t->logw = (const float *)mem->g[LOGW].data;
    t->keys = keys;
    guarded_read_only(&mem->g[K]);
    guarded_read_only(&mem->g[LOGW]);
    if (p->has_limit) {
        mem->g[LIMIT] = kern_floats(mem->padded, p->at);
        for (int64_t i = 0; i < mem->padded; i++)
            ((int32_t *)mem->g[LIMIT].data)[i] = p->limit[i < p->rows ? i : p->rows - 1] - first;
        t->limit = (const int32_t *)mem->g[LIMIT].data;
        guarded_read_only(&mem->g[LIMIT]);
    }
    if (p->dv > 0) {
        ha_rows v = {(const char *)p->v + (size_t)(first * p->dv) * size, p->dv, NULL, 0, p->dtype};
        guarded_writable(&mem->g[V]);
        a->pack_v(mem->g[V].data, t->vpanel, t->vfirst, &v, keys, p->dv);
        guarded_read_only(&mem->g[V]);
    }
    fill_signalling(t->scratch, ha_tile_scratch(a), HYPERATTN_F32);
}

static void leave_chunk(const kern_run *run, tile_memory *mem)
{
    mem->tile.vfirst += ha_round_up(mem->tile.keys, run->arith->nr) / run->arith->pair;
    guarded_free(&mem->g[K]);
    guarded_free(&mem->g[LOGW]);
    guarded_free(&mem->g[LIMIT]);
}

/* Nothing outside the state was written. */
static const char *check_memory(const tile_memory *mem)
{
    static const char *const names[BUFFERS] = {[M] = "m", [L] = "l", [ACC] = "acc",
                                               [SCRATCH] = "scratch"};
    for (int i = M; i < BUFFERS; i++) {
        const char *why = mem->g[i].pages ? guarded_check(&mem->g[i]) : NULL;
        if (why)
            return failure("%s: %s", names[i], why);
    }
    const ha_tile *t = &mem->tile;
    for (int64_t i = 0; i < mem->padded; i++)
        for (int64_t c = mem->padded_dv; c < t->ldacc; c++)
            if (!is_signalling(t->acc, i * t->ldacc + c, HYPERATTN_F32))
                return failure("acc[%lld][%lld], behind the padded dv, was written", (long long)i,
                               (long long)c);
    return NULL;
}

const char *tile_run(const kern_run *run, const tile_problem *p, tile_state *state)
{
    tile_memory mem = memory_new(run, p);
    int first = 0;
    for (int t = 0; t < p->chunks; first += p->keys[t++]) {
        enter_chunk(run, p, &mem, first, p->keys[t]);
        run->arith->attend(&mem.tile);
        leave_chunk(run, &mem);
    }
    const char *why = check_memory(&mem);
    for (int i = 0; i < p->rows; i++) {
        state->m[i] = mem.tile.m[i];
        state->l[i] = mem.tile.l[i];
        for (int c = 0; c < p->dv; c++)
            state->acc[i][c] = mem.tile.acc[i * mem.tile.ldacc + c];
    }
    memory_free(&mem);
    return why;
}
