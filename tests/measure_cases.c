/* SPDX-License-Identifier: Apache-2.0 */
#include "measure_cases.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- inputs ---------------------------------------------------------------------------------- */

const char *family_name(family f)
{
    static const char *const names[] = {"gauss", "clustered", "needles", "rare", "norms", "local"};
    return names[f];
}

static void put_gauss(tensors *t, operand which, double scale, rng *r)
{
    for (int64_t i = 0; i < t->elements[which]; i++)
        element_put(t->mem[which].data, i, t->problem.dtype, scale * rng_gauss(r));
}

static void multiply_row(tensors *t, operand which, int64_t i, double factor)
{
    for (int64_t c = 0; c < tensors_dim(t, which); c++)
        tensors_put(t, which, 0, 0, i, c, factor * tensors_get(t, which, 0, 0, i, c));
}

static void add_centre(tensors *t, operand which, int64_t i, const double *centre)
{
    for (int64_t c = 0; c < tensors_dim(t, which); c++)
        tensors_put(t, which, 0, 0, i, c, centre[c] + tensors_get(t, which, 0, 0, i, c));
}

static void fill_clustered(tensors *t, rng *r)
{
    enum { CENTRES = 64 };
    int64_t n = t->full.seqlen_q, d = t->full.head_dim;
    double *centre = malloc((size_t)(2 * CENTRES * d) * sizeof *centre);
    for (int64_t i = 0; i < 2 * CENTRES * d; i++)
        centre[i] = rng_gauss(r);
    for (int64_t i = 0; i < n; i++) {
        int64_t own = rng_below(r, CENTRES), of_query = rng_below(r, CENTRES);
        multiply_row(t, T_Q, i, 0.5);
        multiply_row(t, T_K, i, 0.5);
        add_centre(t, T_Q, i, centre + of_query * d);
        add_centre(t, T_K, i, centre + own * d);
        add_centre(t, T_V, i, centre + (CENTRES + own) * d);
    }
    free(centre);
}

/* Query i looks for one key of its past. */
static void aim_at_key(tensors *t, int64_t i, rng *r)
{
    int64_t j = rng_below(r, i + 1);
    for (int64_t c = 0; c < t->full.head_dim; c++)
        tensors_put(t, T_Q, 0, 0, i, c, 2 * tensors_get(t, T_K, 0, 0, j, c));
}

static void fill_norms(tensors *t, rng *r)
{
    for (int64_t i = 0; i < t->full.seqlen_q; i++)
        for (int which = T_Q; which <= T_V; which++)
            multiply_row(t, (operand)which, i, exp(rng_gauss(r)));
}

static void fill_local(tensors *t, rng *r)
{
    int64_t n = t->full.seqlen_q, d = t->full.head_dim;
    double *walk = calloc((size_t)(2 * d), sizeof *walk);
    for (int64_t i = 0; i < n; i++) {
        for (int64_t c = 0; c < 2 * d; c++)
            walk[c] = 0.98 * walk[c] + 0.199 * rng_gauss(r);
        add_centre(t, T_Q, i, walk);
        add_centre(t, T_K, i, walk);
        add_centre(t, T_V, i, walk + d);
        tensors_put(t, T_Q, 0, 0, i, 0, 4);
        tensors_put(t, T_K, 0, 0, i, 0, i == 0 ? 16 : 0);
    }
    multiply_row(t, T_V, 0, 0.05);
    free(walk);
}

void family_fill(tensors *t, family f, uint64_t seed)
{
    rng r = rng_new(seed);
    for (int which = T_Q; which <= T_V; which++)
        put_gauss(t, (operand)which, f == FAMILY_RARE && which == T_Q ? 1e-3 : 1, &r);
    if (f == FAMILY_CLUSTERED)
        fill_clustered(t, &r);
    else if (f == FAMILY_NORMS)
        fill_norms(t, &r);
    else if (f == FAMILY_LOCAL)
        fill_local(t, &r);
    for (int64_t i = 0; i < t->full.seqlen_q; i++)
        if (f == FAMILY_NEEDLES || (f == FAMILY_RARE && i % 1000 == 999))
            aim_at_key(t, i, &r);
}

/* ---- errors ---------------------------------------------------------------------------------- */

static void head_errors(row_errors *e, const tensors *t, int64_t h, const float *exact)
{
    int64_t dv = t->full.head_dim_v, group = t->full.nheads / t->full.nheads_kv;
    int64_t nk = t->full.seqlen_k;
    double *centre = calloc((size_t)dv, sizeof *centre);
    ha_reach reach = {0, 0, 0, 0};
    for (int64_t j = 0; j < nk; j++)
        for (int64_t c = 0; c < dv; c++)
            centre[c] += tensors_get(t, T_V, 0, h / group, j, c) / (double)nk;
    for (int64_t j = 0; j < nk; j++) {
        double apart = 0, norm = 0;
        for (int64_t c = 0; c < dv; c++) {
            double x = tensors_get(t, T_V, 0, h / group, j, c);
            apart += (x - centre[c]) * (x - centre[c]);
            norm += x * x;
        }
        reach.reach = fmax(reach.reach, sqrt(apart));
        reach.norm = fmax(reach.norm, sqrt(norm));
    }
    for (int64_t i = 0; i < e->rows; i++) {
        double diff = 0, norm = 0, far = 0, out = 0;
        for (int64_t c = 0; c < dv; c++) {
            double x = tensors_get(t, T_OUT, 0, h, i, c), y = exact[(h * e->rows + i) * dv + c];
            diff += (x - y) * (x - y);
            norm += y * y;
            far += (x - centre[c]) * (x - centre[c]);
            out += x * x;
        }
        e->diff[h * e->rows + i] = diff;
        e->norm[h * e->rows + i] = norm;
        reach.far = fmax(reach.far, sqrt(far));
        reach.out = fmax(reach.out, sqrt(out));
    }
    e->reach[h] = reach;
    free(centre);
}

row_errors row_errors_of(const tensors *t, const float *exact)
{
    row_errors e = {.heads = t->full.nheads, .rows = t->full.seqlen_q};
    double diff = 0, norm = 0;
    e.diff = malloc((size_t)(e.heads * e.rows) * sizeof *e.diff);
    e.norm = malloc((size_t)(e.heads * e.rows) * sizeof *e.norm);
    e.reach = malloc((size_t)e.heads * sizeof *e.reach);
    for (int64_t h = 0; h < e.heads; h++)
        head_errors(&e, t, h, exact);
    for (int64_t i = 0; i < e.heads * e.rows; i++) {
        diff += e.diff[i];
        norm += e.norm[i];
    }
    e.truth = sqrt(diff / norm);
    return e;
}

void row_errors_free(row_errors *e)
{
    free(e->diff);
    free(e->norm);
    free(e->reach);
}

/* ---- draws ----------------------------------------------------------------------------------- */

typedef struct sample {
    double *diff, *norm, *scratch;
    int64_t *strip, *longest;
    uint32_t *row;
} sample;

static ha_error draw(const row_errors *e, int64_t m, uint64_t seed, const sample *s)
{
    for (int64_t h = 0; h < e->heads; h++) {
        ha_draw_checked_rows(s->row, seed, (uint32_t)h, e->rows, m);
        s->longest[h] = ha_strip_rows(e->rows, m, 0);
        for (int64_t i = 0; i < m; i++) {
            s->diff[h * m + i] = e->diff[h * e->rows + s->row[i]];
            s->norm[h * m + i] = e->norm[h * e->rows + s->row[i]];
            s->strip[h * m + i] = ha_strip_rows(e->rows, m, i);
        }
    }
    const ha_checked c = {s->diff, s->norm, s->strip, e->heads * m, e->reach, s->longest, e->heads};
    return ha_error_interval(&c, s->scratch);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int n)
{
    qsort(x, (size_t)n, sizeof *x, ascending);
    return x[n / 2];
}

coverage coverage_of(const row_errors *e, int64_t m, int draws)
{
    size_t all = (size_t)(e->heads * m), n = (size_t)draws;
    double *value = malloc(n * sizeof *value), *low = malloc(n * sizeof *low);
    double *high = malloc(n * sizeof *high);
    const sample s = {malloc(all * sizeof(double)),        malloc(all * sizeof(double)),
                      malloc((all + 1) * sizeof(double)),  malloc(all * sizeof(int64_t)),
                      malloc((size_t)e->heads * sizeof(int64_t)),
                      malloc((size_t)m * sizeof(uint32_t))};
    coverage c = {0};
    for (int i = 0; i < draws; i++) {
        const ha_error r = draw(e, m, (uint64_t)i, &s);
        value[i] = r.value;
        low[i] = r.low;
        high[i] = r.high;
        c.above += r.low > e->truth;
        c.below += r.high < e->truth;
    }
    c.above /= draws;
    c.below /= draws;
    c.held = 1 - c.above - c.below;
    c.value = median(value, draws);
    c.low = median(low, draws);
    c.high = median(high, draws);
    void *const memory[] = {s.diff, s.norm, s.scratch, s.strip, s.longest, s.row, value, low, high};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        free(memory[i]);
    return c;
}
