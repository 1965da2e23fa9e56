/* SPDX-License-Identifier: Apache-2.0 */
#include "hyper_oracle.h"

#include <math.h>
#include <stdlib.h>

#include "cpu/lsh.h"
#include "cpu/sample.h"
#include "cpu/unit.h"

/* One term of a row's softmax. */
typedef struct entry {
    int64_t key; /* -1: part of the row sum alone */
    double log;  /* natural logarithm, weight included */
} entry;

typedef struct row {
    entry *entries;
    int64_t n, room;
} row;

/* A column that the rows of one run attend to. */
typedef struct column {
    int64_t key;
    double log_weight;
} column;

/* One query head of one sequence. */
typedef struct head {
    const tensors *t;
    const hyperattn_params *params;
    const ha_cpu_plan *cpu;
    const ha_layout *layout;
    hyper_counts *counts;
    int64_t b, h, kv, nq, nk, d, dv;
    double *q, *k, *v; /* [nq][d], [nk][d], [nk][dv] */
    row *rows;         /* [nq] */
    float *directions; /* [r][d] */
    int64_t *qbucket, *kbucket;
    double *kproj, *kslip; /* [nk][r]: projections, and what f32 may add or take away */
    /* of the current rectangle */
    int64_t *korder, *qorder; /* keys and rows in sorted order */
    int64_t *run;             /* [nq], of the row at a place of qorder */
    double *mass;
    column *exact, *sampled; /* of the current run */
    int64_t nexact, nsampled;
} head;

/* ---- life ---------------------------------------------------------------------------------- */

static void *zeros(int64_t n, size_t size)
{
    return calloc((size_t)n + 1, size);
}

static double *load(const tensors *t, operand which, int64_t b, int64_t h)
{
    int64_t rows = tensors_nrows(t, which, b), dim = tensors_dim(t, which);
    double *x = zeros(rows * dim, sizeof *x);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t c = 0; c < dim; c++)
            x[i * dim + c] = tensors_get(t, which, b, h, i, c);
    return x;
}

static head head_new(const tensors *t, const hyperattn_plan *plan, int64_t b, int64_t h)
{
    const ha_cpu_plan *cpu = plan->backend_data;
    int r = plan->params.lsh_num_projs;
    head x = {.t = t, .params = &plan->params, .cpu = cpu, .b = b, .h = h,
              .kv = h / (t->full.nheads / t->full.nheads_kv), .nq = tensors_nrows(t, T_Q, b),
              .nk = tensors_nrows(t, T_K, b), .d = t->full.head_dim, .dv = t->full.head_dim_v};
    x.layout = &cpu->layouts[t->full.cu_seqlens_q ? b : 0];
    x.q = load(t, T_Q, b, h);
    x.k = load(t, T_K, b, x.kv);
    x.v = load(t, T_V, b, x.kv);
    x.rows = zeros(x.nq, sizeof *x.rows);
    x.directions = zeros(r * x.d, sizeof *x.directions);
    x.qbucket = zeros(x.nq, sizeof *x.qbucket);
    x.kbucket = zeros(x.nk, sizeof *x.kbucket);
    x.kproj = zeros(x.nk * r, sizeof *x.kproj);
    x.kslip = zeros(x.nk * r, sizeof *x.kslip);
    x.korder = zeros(x.nk, sizeof *x.korder);
    x.qorder = zeros(x.nq, sizeof *x.qorder);
    x.run = zeros(x.nq, sizeof *x.run);
    x.mass = zeros(x.nk, sizeof *x.mass);
    x.exact = zeros(x.nk, sizeof *x.exact);
    x.sampled = zeros(x.nk + plan->params.sample_size, sizeof *x.sampled);
    return x;
}

static void head_free(head *x)
{
    for (int64_t i = 0; i < x->nq; i++)
        free(x->rows[i].entries);
    void *all[] = {x->q, x->k, x->v, x->rows, x->directions, x->qbucket, x->kbucket, x->kproj,
                   x->kslip, x->korder, x->qorder, x->run, x->mass, x->exact, x->sampled};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

static void add_entry(head *x, int64_t i, int64_t key, double log)
{
    row *to = &x->rows[i];
    if (to->n == to->room) {
        to->room = 2 * to->room + 64;
        to->entries = realloc(to->entries, (size_t)to->room * sizeof *to->entries);
    }
    to->entries[to->n++] = (entry){key, log};
}

static double score(const head *x, int64_t i, int64_t j)
{
    double sum = 0;
    for (int64_t c = 0; c < x->d; c++)
        sum += x->q[i * x->d + c] * x->k[j * x->d + c];
    return (double)x->t->full.softmax_scale * sum;
}

/* ---- hash ---------------------------------------------------------------------------------- */

static int is_sorted(const head *x)
{
    return !x->params->block_mask && x->params->heavy == HYPERATTN_HEAVY_SORTLSH;
}

/* Projection of a row on direction g; *slip bounds what a sum in f32 differs by. */
static double project(const head *x, const double *from, int g, double *slip)
{
    double sum = 0, size = 0;
    for (int64_t c = 0; c < x->d; c++) {
        double term = from[c] * (double)x->directions[g * x->d + c];
        sum += term;
        size += fabs(term);
    }
    *slip = 0x1p-24 * (double)(x->d + 2) * size;
    return sum;
}

/* Place of a sign pattern in the Gray sequence: bit b is the parity of the signs from b on. */
static int64_t gray_place(int64_t signs)
{
    int64_t place = 0, parity = 0;
    for (int b = HA_MAX_PROJS - 1; b >= 0; b--) {
        parity ^= signs >> b & 1;
        place |= parity << b;
    }
    return place;
}

static int64_t sign(head *x, double projection, double threshold, double slip)
{
    x->counts->ambiguous += slip > 0 && fabs(projection - threshold) <= slip;
    return projection > threshold;
}

static void hash_all(head *x)
{
    int r = x->params->lsh_num_projs;
    uint32_t unit = (uint32_t)(x->b * x->t->full.nheads_kv + x->kv);
    ha_lsh_directions(x->directions, r, x->d, x->params->seed, unit);
    for (int64_t j = 0; j < x->nk; j++)
        for (int g = 0; g < r; g++)
            x->kproj[j * r + g] = project(x, x->k + j * x->d, g, &x->kslip[j * r + g]);
    for (int64_t i = 0; i < x->nq; i++) {
        int64_t signs = 0;
        for (int g = 0; g < r; g++) {
            double slip, projection = project(x, x->q + i * x->d, g, &slip);
            signs |= sign(x, projection, 0, slip) << g;
        }
        x->qbucket[i] = gray_place(signs);
    }
}

/* Keys are hashed around the mean of the rectangle's own. */
static void hash_keys(head *x, const ha_rect *rect)
{
    int r = x->params->lsh_num_projs;
    for (int64_t j = rect->k0; j < rect->k0 + rect->nk; j++)
        x->kbucket[j] = 0;
    for (int g = 0; g < r; g++) {
        double mean = 0, slip = 0, n = (double)rect->nk;
        for (int64_t j = rect->k0; j < rect->k0 + rect->nk; j++) {
            mean += x->kproj[j * r + g] / n;
            slip += x->kslip[j * r + g] / n;
        }
        slip += 0x1p-24 * fabs(mean);
        for (int64_t j = rect->k0; j < rect->k0 + rect->nk; j++)
            x->kbucket[j] |= sign(x, x->kproj[j * r + g], mean, slip + x->kslip[j * r + g]) << g;
    }
    for (int64_t j = rect->k0; j < rect->k0 + rect->nk; j++)
        x->kbucket[j] = gray_place(x->kbucket[j]);
}

/* ---- order and runs ------------------------------------------------------------------------ */

/* Rows [first, first + n) in ascending order of bucket, or as they are. */
static void sort_rows(const head *x, int64_t *order, const int64_t *bucket, int64_t first, int64_t n)
{
    int64_t place = 0, nbuckets = is_sorted(x) ? (int64_t)1 << x->params->lsh_num_projs : 1;
    for (int64_t b = 0; b < nbuckets; b++)
        for (int64_t i = first; i < first + n; i++)
            if (!is_sorted(x) || bucket[i] == b)
                order[place++] = i;
}

/* The run of the query at a place of the order: near-equal cuts, or as the keys are cut. */
static int64_t paper_run(const head *x, const ha_rect *rect, int64_t place)
{
    if (x->params->block_mask)
        return 0;
    if (!is_sorted(x) || rect->nq == rect->nk)
        return place / x->params->block_size;
    int64_t t = 0;
    while (place >= rect->nq * (t + 1) / rect->nblocks)
        t++;
    return t;
}

/* The block of keys that holds the middle of a bucket. */
static int64_t strict_run(const head *x, const ha_rect *rect, int64_t bucket)
{
    int64_t begin = 0, end = 0;
    for (int64_t j = rect->k0; j < rect->k0 + rect->nk; j++) {
        begin += x->kbucket[j] < bucket;
        end += x->kbucket[j] <= bucket;
    }
    int64_t t = (begin + end) / 2 / x->params->block_size;
    return t < rect->nblocks ? t : rect->nblocks - 1;
}

static double norm(const head *x, int64_t key)
{
    double sum = 0;
    for (int64_t c = 0; c < x->dv; c++)
        sum += x->v[key * x->dv + c] * x->v[key * x->dv + c];
    return sum;
}

static void order_rect(head *x, const ha_rect *rect)
{
    if (is_sorted(x))
        hash_keys(x, rect);
    sort_rows(x, x->korder, x->kbucket, rect->k0, rect->nk);
    sort_rows(x, x->qorder, x->qbucket, rect->q0, rect->nq);
    for (int64_t i = 0; i < rect->nq; i++)
        x->run[i] = x->params->strict_causal && is_sorted(x)
                        ? strict_run(x, rect, x->qbucket[x->qorder[i]])
                        : paper_run(x, rect, i);
    double sum = 0;
    for (int64_t p = 0; p < rect->nk; p++)
        x->mass[p] = sum += (double)(float)norm(x, x->korder[p]);
}

/* ---- columns ------------------------------------------------------------------------------- */

/* Whether block id is one of the exact blocks of run t. */
static int is_listed(const head *x, const ha_rect *rect, int64_t t, int64_t id)
{
    const hyperattn_block_mask *mask = x->params->block_mask;
    if (!mask)
        return is_sorted(x) && id == t;
    int64_t r = rect->q0 / mask->query_block;
    if (mask->per_head)
        r += x->h * ((x->t->full.seqlen_q + mask->query_block - 1) / mask->query_block);
    for (int64_t e = mask->row_start[r]; e < mask->row_start[r + 1]; e++)
        if (mask->key_blocks[e] == id)
            return 1;
    return 0;
}

/* The sampler of run t, with its blocks in ids; lists the exact columns on the way. */
static ha_sampler sampler_of(head *x, const ha_rect *rect, int64_t t, int64_t *ids)
{
    const hyperattn_params *p = x->params;
    ha_blocks blocks = {.block = ids, .width = p->block_mask ? p->block_mask->key_block
                                                             : p->block_size,
                        .origin = p->block_mask ? rect->k0 : 0, .total = rect->nk};
    x->nexact = 0;
    for (int64_t place = 0, before = -1; place < rect->nk; place++) {
        int64_t id = (place + blocks.origin) / blocks.width;
        if (!is_listed(x, rect, t, id))
            continue;
        x->exact[x->nexact++] = (column){x->korder[place], 0};
        if (id != before)
            ids[blocks.n++] = before = id;
    }
    ha_sampler s = {.exact = blocks, .outside = rect->nk - x->nexact, .draws = p->sample_size,
                    .mass = p->sampling == HYPERATTN_VNORM ? x->mass : NULL, .seed = p->seed,
                    .head = (uint32_t)(x->b * x->t->full.nheads + x->h),
                    .rect = (uint32_t)(rect - x->layout->rects), .block = (uint32_t)t};
    for (int part = 0; part < 2; part++)
        for (int64_t j = rect->exact[part][0]; j < rect->exact[part][1]; j++)
            x->exact[x->nexact++] = (column){j, 0};
    return s;
}

/* draws < 0: as many as the params say. */
static void list_columns(head *x, const ha_rect *rect, int64_t t, int64_t draws)
{
    int64_t *ids = zeros(rect->nk, sizeof *ids);
    ha_sampler s = sampler_of(x, rect, t, ids);
    if (draws >= 0)
        s.draws = draws;
    int64_t n = s.draws < s.outside ? s.draws : s.outside;
    uint32_t *position = zeros(n, sizeof *position);
    float *weight = zeros(n, sizeof *weight);
    x->nsampled = ha_sample(&s, 0, n, position, weight);
    for (int64_t i = 0; i < x->nsampled; i++)
        x->sampled[i] = (column){x->korder[position[i]], (double)weight[i] * log(2)};
    free(ids);
    free(position);
    free(weight);
}

/* ---- Algorithm 2's tau, cap and floor ------------------------------------------------------ */

/* The largest row sum over all keys outside the exact columns, of rows [first, first + n) of run t
 * in sorted order. */
static double largest_sum(head *x, const ha_rect *rect, int64_t t, int64_t first, int64_t n)
{
    double largest = 0;
    list_columns(x, rect, t, rect->nk);
    for (int64_t place = 0, in_run = 0; place < rect->nq; place++) {
        if (x->run[place] != t)
            continue;
        if (in_run >= first && in_run < first + n) {
            double sum = 0;
            for (int64_t c = 0; c < x->nsampled; c++)
                sum += exp(score(x, x->qorder[place], x->sampled[c].key));
            largest = fmax(largest, sum);
        }
        in_run++;
    }
    return largest;
}

/* As many tiles of br rows as sample_size rows take, at random places of random runs. */
static double tau_of(head *x, const ha_rect *rect)
{
    int64_t br = x->cpu->arith->br, tiles = (x->params->sample_size + br - 1) / br;
    double tau = 0;
    for (int64_t tile = 0; tile < tiles; tile++) {
        ha_words w = ha_philox(x->params->seed, (uint32_t)tile, 0,
                               HA_STREAM_TAU_ROWS + 8 * (uint32_t)(rect - x->layout->rects),
                               (uint32_t)(x->b * x->t->full.nheads + x->h));
        int64_t t = ha_below(w.w[0], (uint32_t)rect->nblocks), in_run = 0;
        for (int64_t place = 0; place < rect->nq; place++)
            in_run += x->run[place] == t;
        int64_t n = in_run < br ? in_run : br;
        tau = fmax(tau, largest_sum(x, rect, t, ha_below(w.w[1], (uint32_t)(in_run - n + 1)), n));
    }
    return tau;
}

/* ---- attention ----------------------------------------------------------------------------- */

/* Row i of the current run. floor is tau / kappa, or -1 without a cap. */
static void attend_row(head *x, const ha_rect *rect, int64_t i, double floor)
{
    double exact_sum = 0, sampled_sum = 0, cap = INFINITY;
    for (int64_t c = 0; c < x->nexact; c++) {
        double s = score(x, i, x->exact[c].key);
        exact_sum += exp(s);
        add_entry(x, i, x->exact[c].key, s);
    }
    if (floor >= 0)
        cap = log((exact_sum + floor) / fmax(1, log((double)rect->nk)));
    for (int64_t c = 0; c < x->nsampled; c++) {
        double s = score(x, i, x->sampled[c].key) + x->sampled[c].log_weight;
        x->counts->weighted += x->sampled[c].log_weight != 0;
        x->counts->capped += s > cap;
        s = fmin(s, cap);
        sampled_sum += exp(s);
        add_entry(x, i, x->sampled[c].key, s);
    }
    x->counts->exact += x->nexact;
    if (sampled_sum < floor) {
        add_entry(x, i, -1, log(floor - sampled_sum));
        x->counts->floored++;
    }
}

static void attend_rect(head *x, const ha_rect *rect)
{
    order_rect(x, rect);
    double floor = x->params->kappa_cap > 0 ? tau_of(x, rect) / (double)x->params->kappa_cap : -1;
    for (int64_t t = 0; t < rect->nblocks; t++) {
        list_columns(x, rect, t, -1);
        for (int64_t place = 0; place < rect->nq; place++)
            if (x->run[place] == t)
                attend_row(x, rect, x->qorder[place], floor);
    }
}

static void attend_leaf(head *x, const ha_leaf *leaf)
{
    for (int64_t i = leaf->q0; i < leaf->q0 + leaf->nq; i++)
        for (int64_t j = leaf->k0; j < x->nk && tensors_sees(x->t, x->b, i, j); j++) {
            add_entry(x, i, j, score(x, i, j));
            x->counts->leaf++;
        }
}

/* ---- softmax ------------------------------------------------------------------------------- */

static double log_sum(const entry *entries, int64_t n)
{
    double top = -INFINITY, sum = 0;
    for (int64_t e = 0; e < n; e++)
        top = fmax(top, entries[e].log);
    for (int64_t e = 0; e < n; e++)
        sum += exp(entries[e].log - top);
    return n ? top + log(sum) : top;
}

static void finish_row(oracle *o, const head *x, int64_t i)
{
    int64_t at = tensors_row(x->t, x->b, x->h, i);
    const row *from = &x->rows[i];
    double *out = o->out + at * o->dv, *slip = o->slip + at * o->dv;
    o->lse[at] = log_sum(from->entries, from->n);
    o->nkeys[at] = (int64_t)sqrt((double)from->n);
    for (int64_t e = 0; e < from->n; e++)
        for (int64_t c = 0; c < o->dv && from->entries[e].key >= 0; c++)
            out[c] += exp(from->entries[e].log - o->lse[at]) * x->v[from->entries[e].key * x->dv + c];
    for (int64_t e = 0; e < from->n; e++) {
        int64_t key = from->entries[e].key;
        double p = exp(from->entries[e].log - o->lse[at]), slack = 0;
        for (int64_t c = 0; c < x->d && key >= 0; c++)
            slack += fabs(x->q[i * x->d + c] * x->k[key * x->d + c]);
        slack *= 4 * (double)x->t->full.softmax_scale;
        o->lse_slip[at] += p * slack;
        for (int64_t c = 0; c < o->dv; c++) {
            double v = key >= 0 ? x->v[key * x->dv + c] : 0;
            slip[c] += p * (fabs(v) + fabs(v - out[c]) * slack);
        }
    }
}

/* x as it is after a store in the type. */
static double stored(double value, hyperattn_dtype dtype)
{
    uint16_t low;
    element_put(&low, 0, dtype, value);
    return element_get(&low, 0, dtype);
}

/* The largest error of a plain implementation that stores scores, weights and out in the type. */
static double plain_error(const oracle *o, const head *x, int64_t i)
{
    hyperattn_dtype dtype = x->t->full.dtype;
    row *from = &x->rows[i];
    int64_t at = tensors_row(x->t, x->b, x->h, i);
    double worst = 0;
    for (int64_t e = 0; e < from->n; e++)
        from->entries[e].log = stored(from->entries[e].log, dtype);
    double lse = log_sum(from->entries, from->n);
    for (int64_t c = 0; c < o->dv; c++) {
        double sum = 0;
        for (int64_t e = 0; e < from->n; e++)
            if (from->entries[e].key >= 0)
                sum += stored(exp(from->entries[e].log - lse), dtype) *
                       x->v[from->entries[e].key * x->dv + c];
        worst = fmax(worst, fabs(stored(sum, dtype) - o->out[at * o->dv + c]));
    }
    return worst;
}

oracle hyper_oracle(const tensors *t, const hyperattn_plan *plan, hyper_counts *counts)
{
    oracle o = {.rows = t->rows, .dv = t->full.head_dim_v};
    o.out = zeros(o.rows * o.dv, sizeof *o.out);
    o.slip = zeros(o.rows * o.dv, sizeof *o.slip);
    o.lse = zeros(o.rows, sizeof *o.lse);
    o.lse_slip = zeros(o.rows, sizeof *o.lse_slip);
    o.nkeys = zeros(o.rows, sizeof *o.nkeys);
    *counts = (hyper_counts){0};
    for (int64_t b = 0; b < t->full.batch; b++)
        for (int64_t h = 0; h < t->full.nheads; h++) {
            head x = head_new(t, plan, b, h);
            x.counts = counts;
            if (is_sorted(&x))
                hash_all(&x);
            for (int64_t r = 0; r < x.layout->nrects; r++)
                attend_rect(&x, &x.layout->rects[r]);
            for (int64_t f = 0; f < x.layout->nleaves; f++)
                attend_leaf(&x, &x.layout->leaves[f]);
            for (int64_t i = 0; i < x.nq; i++) {
                finish_row(&o, &x, i);
                if (t->full.dtype != HYPERATTN_F32)
                    o.plain_error = fmax(o.plain_error, plain_error(&o, &x, i));
            }
            head_free(&x);
        }
    return o;
}
