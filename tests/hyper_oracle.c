/* SPDX-License-Identifier: Apache-2.0 */
#include "hyper_oracle.h"

#include <math.h>
#include <stdlib.h>

#include "algo/approxd.h"
#include "algo/causal.h"
#include "algo/sortlsh.h"
#include "plan.h"

/* Columns with the logarithms of their weights. */
typedef struct list {
    pattern_entry *entries;
    int64_t n;
} list;

/* What the hash makes of the queries or keys. */
typedef struct hashed {
    double *proj, *slip; /* [n][r]: projections, and what f32 may add or take away */
    int64_t *bucket;     /* [n], in the current rectangle */
} hashed;

/* One query head of one sequence. */
typedef struct head {
    head_data data;
    const hyperattn_params *params;
    ha_layout layout;
    hyper_counts *counts;
    pattern_row *rows; /* of the whole pattern */
    float *directions; /* [r][d] */
    hashed queries, keys;
    /* of the current rectangle */
    int64_t *korder, *qorder; /* keys and rows in sorted order */
    int64_t *run;             /* [nq], of the row at a place of qorder */
    double *mass;
    int64_t *members;    /* rows of the current run */
    list exact, sampled; /* columns of the current run */
} head;

/* ---- life ---------------------------------------------------------------------------------- */

static void *zeros(int64_t n, size_t size)
{
    return calloc((size_t)n + 1, size);
}

static hashed hashed_new(int64_t n, int r)
{
    return (hashed){zeros(n * r, sizeof(double)), zeros(n * r, sizeof(double)),
                    zeros(n, sizeof(int64_t))};
}

static ha_layout layout_new(const hyperattn_params *params, int causal, int64_t nq, int64_t nk)
{
    ha_layout l = {.nq = nq, .nk = nk};
    ha_layout_build(&l, params, causal);
    l.wave = zeros(l.nwaves + 1, sizeof *l.wave);
    l.rects = zeros(l.nrects, sizeof *l.rects);
    l.leaves = zeros(l.nleaves, sizeof *l.leaves);
    ha_layout_build(&l, params, causal);
    return l;
}

static head head_new(const tensors *t, const hyperattn_plan *plan, int64_t b, int64_t h)
{
    int r = plan->params.lsh_num_projs;
    head x = {.data = head_load(t, b, h), .params = &plan->params};
    int64_t nq = x.data.nq, nk = x.data.nk, d = x.data.d;
    x.layout = layout_new(&plan->params, t->full.causal, nq, nk);
    x.directions = zeros(r * d, sizeof *x.directions);
    ha_directions(x.directions, r, d, plan->params.seed,
                      (uint32_t)(b * t->full.nheads_kv + x.data.kv));
    x.queries = hashed_new(nq, r);
    x.keys = hashed_new(nk, r);
    x.korder = zeros(nk, sizeof *x.korder);
    x.qorder = zeros(nq, sizeof *x.qorder);
    x.run = zeros(nq, sizeof *x.run);
    x.members = zeros(nq, sizeof *x.members);
    x.mass = zeros(nk, sizeof *x.mass);
    return x;
}

static void head_free(head *x)
{
    void *all[] = {x->directions, x->queries.proj, x->queries.slip, x->queries.bucket,
                   x->keys.proj, x->keys.slip, x->keys.bucket, x->korder, x->qorder, x->run,
                   x->members, x->mass, x->layout.wave, x->layout.rects,
                   x->layout.leaves, x->exact.entries, x->sampled.entries};
    head_unload(&x->data);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

static void add(list *to, int64_t key, double log)
{
    if ((to->n & (to->n - 1)) == 0) /* room for the next power of two */
        to->entries = realloc(to->entries, (size_t)(2 * to->n + 1) * sizeof *to->entries);
    to->entries[to->n++] = (pattern_entry){key, log};
}

/* ---- hash ---------------------------------------------------------------------------------- */

static int is_sorted(const head *x)
{
    return !x->params->block_mask && x->params->heavy == HYPERATTN_HEAVY_SORTLSH;
}

/* Projections of n rows; slip bounds what a sum in f32 differs by. */
static void project(const head *x, hashed *to, const double *from, int64_t n)
{
    int r = x->params->lsh_num_projs;
    int64_t d = x->data.d;
    for (int64_t e = 0; e < n * r; e++) {
        double size = 0;
        for (int64_t c = 0; c < d; c++) {
            double term = from[e / r * d + c] * (double)x->directions[e % r * d + c];
            to->proj[e] += term;
            size += fabs(term);
        }
        to->slip[e] = 0x1p-24 * (double)(d + 2) * size;
    }
}

/* Place of a sign pattern in the Gray sequence: bit b is the parity of the signs from b on. */
static int64_t gray_place(int64_t signs)
{
    int64_t place = 0;
    for (int b = 0; b < HA_MAX_PROJS; b++)
        place |= (int64_t)__builtin_parityll((unsigned long long)signs >> b) << b;
    return place;
}

/* Bit of a projection; slip is what f32 may take it and the threshold apart by. */
static int64_t sign(head *x, double projection, double threshold, double slip)
{
    x->counts->ambiguous += is_sorted(x) && slip > 0 && fabs(projection - threshold) <= slip;
    return projection > threshold;
}

/* Buckets of rows [first, first + n), counted from their own mean or from 0. A single row is its
 * own mean, to the bit. */
static void rank_rows(head *x, hashed *rows, int64_t first, int64_t n, int centre)
{
    int r = x->params->lsh_num_projs;
    double mean[HA_MAX_PROJS] = {0}, slip[HA_MAX_PROJS] = {0};
    const double *proj = rows->proj + first * r, *own_slip = rows->slip + first * r;
    for (int64_t e = 0; e < n * r && centre; e++) {
        mean[e % r] += proj[e] / (double)n;
        slip[e % r] += (own_slip[e] + 0x1p-24 * fabs(proj[e])) / (double)n;
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t signs = 0;
        for (int g = 0; g < r; g++)
            signs |= sign(x, proj[i * r + g], mean[g],
                          n == 1 && centre ? 0 : slip[g] + own_slip[i * r + g]) << g;
        rows->bucket[first + i] = gray_place(signs);
    }
}

/* ---- order and runs ------------------------------------------------------------------------ */

/* Rows [first, first + n) in ascending order of bucket, or as they are. */
static void sort_rows(const head *x, int64_t *order, const int64_t *bucket, int64_t first,
                      int64_t n)
{
    int64_t place = 0, nbuckets = is_sorted(x) ? (int64_t)1 << x->params->lsh_num_projs : 1;
    for (int64_t b = 0; b < nbuckets; b++)
        for (int64_t i = first; i < first + n; i++)
            if (!is_sorted(x) || bucket[i] == b)
                order[place++] = i;
}

/* The run of the query at a place of the order: near-equal cuts, or cuts like those of the keys. */
static int64_t paper_run(const head *x, const ha_rect *rect, int64_t place)
{
    if (x->params->block_mask)
        return 0;
    if (!is_sorted(x) || rect->nq == rect->nk)
        return place / x->params->block_size;
    int64_t t = 0;
    while (place >= rect->nq * (t + 1) / rect->nruns)
        t++;
    return t;
}

/* The block of keys that holds the middle of a bucket. */
static int64_t strict_run(const head *x, const ha_rect *rect, int64_t bucket)
{
    int64_t begin = 0, end = 0;
    for (int64_t j = rect->k0; j < rect->k0 + rect->nk; j++) {
        begin += x->keys.bucket[j] < bucket;
        end += x->keys.bucket[j] <= bucket;
    }
    int64_t t = (begin + end) / 2 / x->params->block_size;
    return t < rect->nruns ? t : rect->nruns - 1;
}

static void order_rect(head *x, const ha_rect *rect)
{
    int strict = x->params->strict_causal && is_sorted(x);
    rank_rows(x, &x->keys, rect->k0, rect->nk, 1);
    rank_rows(x, &x->queries, rect->q0, rect->nq, !strict);
    sort_rows(x, x->korder, x->keys.bucket, rect->k0, rect->nk);
    sort_rows(x, x->qorder, x->queries.bucket, rect->q0, rect->nq);
    for (int64_t i = 0; i < rect->nq; i++)
        x->run[i] = strict ? strict_run(x, rect, x->queries.bucket[x->qorder[i]])
                           : paper_run(x, rect, i);
}

/* Lists the rows of run t in sorted order; returns how many they are. */
static int64_t list_rows(head *x, const ha_rect *rect, int64_t t)
{
    int64_t n = 0;
    for (int64_t place = 0; place < rect->nq; place++)
        if (x->run[place] == t)
            x->members[n++] = x->qorder[place];
    return n;
}

/* Running sums of the keys' |v|^2, which the library keeps in f32. */
static void sum_mass(head *x, const ha_rect *rect)
{
    double sum = 0;
    for (int64_t place = 0; place < rect->nk; place++) {
        const double *v = x->data.v + x->korder[place] * x->data.dv;
        double norm = 0;
        for (int64_t c = 0; c < x->data.dv; c++)
            norm += v[c] * v[c];
        x->mass[place] = sum += (double)(float)norm;
    }
}

/* ---- columns ------------------------------------------------------------------------------- */

/* Of the head among those of all sequences. */
static uint32_t number(const head *x)
{
    return (uint32_t)(x->data.b * x->data.t->full.nheads + x->data.h);
}

/* Whether block id is one of the exact blocks of run t. */
static int is_listed(const head *x, const ha_rect *rect, int64_t t, int64_t id)
{
    const hyperattn_block_mask *mask = x->params->block_mask;
    if (!mask)
        return is_sorted(x) && id == t;
    int64_t r = rect->q0 / mask->query_block;
    if (mask->per_head)
        r += x->data.h * (1 + (x->data.t->full.seqlen_q - 1) / mask->query_block);
    for (int64_t e = mask->row_start[r]; e < mask->row_start[r + 1]; e++)
        if (mask->key_blocks[e] == id)
            return 1;
    return 0;
}

/* The sampler of run t, with its blocks in ids; lists the exact columns on the way. */
static ha_sampler sampler_of(head *x, const ha_rect *rect, int64_t t, int64_t draws, int64_t *ids)
{
    const hyperattn_params *p = x->params;
    ha_blocks blocks = {.block = ids, .width = p->block_mask ? p->block_mask->key_block
                                                             : p->block_size,
                        .origin = p->block_mask ? rect->k0 : 0, .total = rect->nk};
    x->exact.n = 0;
    for (int64_t place = 0, before = -1; place < rect->nk; place++) {
        int64_t id = (place + blocks.origin) / blocks.width;
        if (!is_listed(x, rect, t, id))
            continue;
        add(&x->exact, x->korder[place], 0);
        if (id != before)
            ids[blocks.n++] = before = id;
    }
    ha_sampler s = {.exact = blocks, .outside = rect->nk - x->exact.n, .draws = draws,
                    .mass = p->sampling == HYPERATTN_SAMPLING_VNORM ? x->mass : NULL,
                    .seed = p->seed, .head = number(x), .rect = (uint32_t)(rect - x->layout.rects),
                    .run = (uint32_t)t};
    for (int part = 0; part < 2; part++)
        for (int64_t j = rect->pinned[part][0]; j < rect->pinned[part][1]; j++)
            add(&x->exact, j, 0);
    return s;
}

static void list_columns(head *x, const ha_rect *rect, int64_t t, int64_t draws)
{
    int64_t *ids = zeros(rect->nk, sizeof *ids);
    ha_sampler s = sampler_of(x, rect, t, draws, ids);
    int64_t n = s.draws < s.outside ? s.draws : s.outside;
    uint32_t *position = zeros(n, sizeof *position);
    float *weight = zeros(n, sizeof *weight);
    n = ha_sample(&s, 0, n, position, weight);
    x->sampled.n = 0;
    for (int64_t i = 0; i < n; i++)
        add(&x->sampled, x->korder[position[i]], (double)weight[i] * log(2));
    free(ids);
    free(position);
    free(weight);
}

/* ---- Algorithm 2's tau, cap and floor ------------------------------------------------------ */

static double sampled_sum(const head *x, int64_t i)
{
    double sum = 0;
    for (int64_t e = 0; e < x->sampled.n; e++)
        sum += exp(head_score(&x->data, i, x->sampled.entries[e].key));
    return sum;
}

/* The largest row sum over all keys outside the exact columns: of as many tiles of HA_TAU_ROWS
 * rows as min(sample_size, nq) rows take, at random places of random runs. */
static double tau_of(head *x, const ha_rect *rect)
{
    int64_t tiles = ha_tau_tiles(x->params, rect->nq);
    double tau = 0;
    for (int64_t tile = 0; tile < tiles; tile++) {
        ha_words w = ha_philox(x->params->seed, (uint32_t)tile, 0,
                               HA_STREAM_TAU_ROWS + 8 * (uint32_t)(rect - x->layout.rects),
                               number(x));
        int64_t t = ha_below(w.w[0], (uint32_t)rect->nruns), all = list_rows(x, rect, t);
        int64_t n = all < HA_TAU_ROWS ? all : HA_TAU_ROWS;
        int64_t first = ha_below(w.w[1], (uint32_t)(all - n + 1));
        list_columns(x, rect, t, rect->nk);
        for (int64_t i = first; i < first + n; i++)
            tau = fmax(tau, sampled_sum(x, x->members[i]));
    }
    return tau;
}

/* ---- what rows attend to --------------------------------------------------------------------- */

static pattern_row *row_of(const head *x, int64_t i)
{
    return &x->rows[tensors_row(x->data.t, x->data.b, x->data.h, i)];
}

/* Row i attends to the columns of the current run. */
static void attend_run(head *x, int64_t i, double floor, double log_n)
{
    pattern_begin(row_of(x, i), floor, log_n);
    for (int64_t e = 0; e < x->exact.n; e++)
        pattern_add(row_of(x, i), x->exact.entries[e].key, 0, 0);
    for (int64_t e = 0; e < x->sampled.n; e++) {
        pattern_add(row_of(x, i), x->sampled.entries[e].key, x->sampled.entries[e].log, 1);
        x->counts->weighted += x->sampled.entries[e].log != 0;
    }
    x->counts->exact += x->exact.n;
}

static void attend_rect(head *x, const ha_rect *rect)
{
    order_rect(x, rect);
    sum_mass(x, rect);
    if (x->counts->ambiguous)
        return;
    double floor = x->params->kappa_cap > 0 ? tau_of(x, rect) / (double)x->params->kappa_cap : -1;
    double log_n = fmax(1, log((double)rect->nk));
    for (int64_t t = 0; t < rect->nruns; t++) {
        list_columns(x, rect, t, x->params->sample_size);
        for (int64_t i = 0, n = list_rows(x, rect, t); i < n; i++)
            attend_run(x, x->members[i], floor, log_n);
    }
}

static void attend_leaf(head *x, const ha_leaf *leaf)
{
    const tensors *t = x->data.t;
    for (int64_t i = leaf->q0; i < leaf->q0 + leaf->nq; i++) {
        pattern_begin(row_of(x, i), -1, 1);
        for (int64_t j = leaf->k0; j < x->data.nk && tensors_sees(t, x->data.b, i, j); j++) {
            pattern_add(row_of(x, i), j, 0, 0);
            x->counts->leaf++;
        }
    }
}

pattern hyper_pattern(const tensors *t, const hyperattn_plan *plan, hyper_counts *counts)
{
    pattern p = pattern_new(t->rows);
    *counts = (hyper_counts){0};
    for (int64_t b = 0; b < t->full.batch; b++)
        for (int64_t h = 0; h < t->full.nheads; h++) {
            head x = head_new(t, plan, b, h);
            x.counts = counts;
            x.rows = p.rows;
            project(&x, &x.queries, x.data.q, x.data.nq);
            project(&x, &x.keys, x.data.k, x.data.nk);
            for (int64_t r = 0; r < x.layout.nrects; r++)
                attend_rect(&x, &x.layout.rects[r]);
            for (int64_t f = 0; f < x.layout.nleaves; f++)
                attend_leaf(&x, &x.layout.leaves[f]);
            head_free(&x);
        }
    return p;
}

oracle hyper_oracle(const tensors *t, const hyperattn_plan *plan, hyper_counts *counts)
{
    pattern p = hyper_pattern(t, plan, counts);
    oracle o = pattern_forward(t, &p, counts);
    pattern_free(&p);
    return o;
}
