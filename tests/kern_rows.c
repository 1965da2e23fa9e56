/* SPDX-License-Identifier: Apache-2.0
 *
 * Tests of the kernels that read rows: load_q, pack_k, pack_v and dot_rows. All but the last are
 * exact, so the results are compared bit by bit with the layout that lib/kernels.h describes.
 */
#include <math.h>

#include "kern_source.h"

/* ---- comparing units ------------------------------------------------------------------------- */

/* A unit that should hold value (i, c) or, in bf16 arithmetic, that and value (i2, c2). */
static void check_unit(kern_worst *w, const ha_arith *a, const source *s, const char *what,
                       int64_t x, int64_t y, uint32_t got, int64_t i, int64_t c, int64_t i2,
                       int64_t c2)
{
    uint32_t expected;
    if (a->pair == 2) {
        expected = source_bits(s, i, c) | source_bits(s, i2, c2) << 16;
    } else {
        float value = source_value(s, i, c);
        expected = kern_bits(value);
        if (isnan(value) && isnan(kern_float(got)) && !is_signalling(&got, 0, HYPERATTN_F32))
            got = expected;
    }
    kern_same_bits(w, what, x, y, expected, got, 8);
}

/* Unit x of row i in panels of `height` rows. */
static int64_t unit_at(const ha_arith *a, int64_t height, int64_t depth, int64_t i, int64_t x)
{
    int64_t run = x / a->row_units * a->row_units;
    return (i / height * depth + run) * height + i % height * a->row_units + x - run;
}

static const char *first_of(const char *a, const char *b)
{
    return a ? a : b;
}

/* ---- query tiles ----------------------------------------------------------------------------- */

static const char *load_q_of(const kern_run *run, rng *r, const rows_shape *shape, int kind)
{
    const ha_arith *a = run->arith;
    source s = source_new(shape, r, kind);
    int64_t ld = ha_ldq(a, shape->n), padded = ha_round_up(shape->rows, a->mr);
    guarded dst = kern_floats(padded * ld, shape->at);
    a->load_q(dst.data, &s.rows, shape->rows, shape->n);
    const uint32_t *q = (const uint32_t *)dst.data;
    kern_worst w = {0};
    for (int64_t i = 0; i < padded; i++)
        for (int64_t x = 0; x < ld; x++)
            check_unit(&w, a, &s, "q", i, x, q[unit_at(a, a->row_units, ld, i, x)], i,
                       x * a->pair, i, x * a->pair + 1);
    const char *why = first_of(kern_verdict(&w), guarded_check(&dst));
    guarded_free(&dst);
    source_free(&s);
    return why;
}

static const char *load_q_case(const kern_run *run, rng *r, const void *shape)
{
    return load_q_of(run, r, shape, ANYTHING);
}

static const char *every_pattern_case(const kern_run *run, rng *r, const void *shape)
{
    return load_q_of(run, r, shape, EVERY_PATTERN);
}

/* ---- key panels ------------------------------------------------------------------------------ */

static const char *pack_k_case(const kern_run *run, rng *r, const void *arg)
{
    const rows_shape *shape = arg;
    const ha_arith *a = run->arith;
    source s = source_new(shape, r, ANYTHING);
    int64_t depth = ha_units(a, shape->n), padded = ha_round_up(shape->rows, a->nr);
    guarded dst = guarded_new(ha_k_bytes(a, shape->rows, shape->n), shape->at);
    fill_signalling(dst.data, padded * depth, HYPERATTN_F32);
    a->pack_k(dst.data, &s.rows, shape->rows, shape->n);
    const uint32_t *k = (const uint32_t *)dst.data;
    kern_worst w = {0};
    for (int64_t j = 0; j < padded; j++)
        for (int64_t x = 0; x < depth; x++)
            check_unit(&w, a, &s, "k", j, x, k[unit_at(a, a->nr, depth, j, x)], j, x * a->pair, j,
                       x * a->pair + 1);
    const char *why = first_of(kern_verdict(&w), guarded_check(&dst));
    guarded_free(&dst);
    source_free(&s);
    return why;
}

/* ---- value panels ---------------------------------------------------------------------------- */

/* Puts an Inf or NaN in one place, often the last key or column. */
static void spoil(source *s, rng *r)
{
    static const double odd[] = {INFINITY, -INFINITY, NAN};
    int64_t i = rng_below(r, 2) ? s->count - 1 : rng_below(r, s->count);
    int64_t c = rng_below(r, 2) ? s->n - 1 : rng_below(r, s->n);
    guarded_writable(&s->data);
    element_put(s->data.data, source_row(s, i) * s->rows.stride + c, s->rows.dtype,
                odd[rng_below(r, COUNT(odd))]);
    guarded_read_only(&s->data);
}

/* The column panels cover dv in whole vectors, evenly, none wider than NR. */
static const char *check_panels(const ha_arith *a, int64_t dv)
{
    ha_panels panels = ha_column_panels(dv, a->lanes, a->nr);
    int64_t widest = ha_panel_width(&panels, 0), c = 0, count = 0;
    while (c < dv) {
        int64_t width = ha_panel_width(&panels, c);
        if (width <= 0 || width > a->nr || width % a->lanes || widest - width > a->lanes)
            return failure("the panel at column %lld of %lld is %lld wide", (long long)c,
                           (long long)dv, (long long)width);
        c += width;
        count++;
    }
    if (c != ha_padded_columns(a, dv) || count != (dv + a->nr - 1) / a->nr)
        return failure("%lld panels of %lld columns end at %lld", (long long)count, (long long)dv,
                       (long long)c);
    return NULL;
}

/* Every unit of the pack: the chunk's, from vfirst on, and those around, which stay the same. */
static const char *check_v(const ha_arith *a, const source *s, const uint32_t *v, int64_t vpanel,
                           int64_t vfirst)
{
    int64_t dv = s->n, units = ha_round_up(s->count, a->nr) / a->pair;
    ha_panels panels = ha_column_panels(dv, a->lanes, a->nr);
    int64_t panel = 0, width = ha_panel_width(&panels, 0);
    kern_worst w = {0};
    for (int64_t c = 0; c < ha_padded_columns(a, dv); c++) {
        if (c == panel + width) {
            panel = c;
            width = ha_panel_width(&panels, c);
        }
        for (int64_t u = 0; u < vpanel; u++) {
            uint32_t got = v[panel * vpanel + unit_at(a, width, vpanel, c - panel, u)];
            int64_t j = (u - vfirst) * a->pair;
            if (u >= vfirst && u < vfirst + units)
                check_unit(&w, a, s, "v", u, c, got, j, c, j + 1, c);
            else if (!is_signalling(&got, 0, HYPERATTN_F32))
                return failure("unit %lld of column %lld is outside the chunk and was written",
                               (long long)u, (long long)c);
        }
    }
    return kern_verdict(&w);
}

static const char *pack_v_case(const kern_run *run, rng *r, const void *arg)
{
    const rows_shape *shape = arg;
    const ha_arith *a = run->arith;
    source s = source_new(shape, r, FINITE);
    int spoilt = rng_below(r, 2) == 0;
    if (spoilt)
        spoil(&s, r);
    int64_t panel = a->nr / a->pair, vfirst = rng_below(r, 3) * panel;
    int64_t vpanel = vfirst + ha_round_up(shape->rows, a->nr) / a->pair + rng_below(r, 2) * panel;
    guarded dst = guarded_new(ha_v_bytes(a, vpanel * a->pair, shape->n), shape->at);
    fill_signalling(dst.data, (int64_t)dst.size / 4, HYPERATTN_F32);
    int finite = a->pack_v(dst.data, vpanel, vfirst, &s.rows, shape->rows, shape->n);
    const char *why = first_of(check_panels(a, shape->n), guarded_check(&dst));
    why = first_of(why, check_v(a, &s, (const uint32_t *)dst.data, vpanel, vfirst));
    if (!why && finite != !spoilt)
        why = failure("returned %d for values that %s", finite,
                      spoilt ? "hold an Inf or NaN" : "are finite");
    guarded_free(&dst);
    source_free(&s);
    return why;
}

/* ---- shapes ---------------------------------------------------------------------------------- */

static void try_rows(const kern_run *run, kern_case *verify, const rows_shape *s)
{
    kern_try(run, verify, s, "%s, %lld rows of %lld, %s, %s", dtype_name(s->dtype),
             (long long)s->rows, (long long)s->n, s->indexed ? "by index" : "consecutive",
             kern_placement(s->at));
}

/* All widths at the row counts where tails begin and end, and all row counts at two widths. */
static void sweep(const kern_run *run, kern_case *verify, hyperattn_dtype dtype, int block,
                  int most)
{
    const int counts[] = {1, block - 1, block, block + 1, 2 * block, most};
    rows_shape s = {.dtype = dtype};
    for (int d = 0; d < KERN_DIMS; d++)
        for (int at = 0; at < PLACEMENTS; at++)
            for (int n = 0; n < 2; n++) {
                s.n = kern_dims[d];
                s.at = (placement)at;
                s.rows = counts[(d + 3 * n + at) % COUNT(counts)];
                s.indexed = n;
                try_rows(run, verify, &s);
            }
    for (s.rows = 1; s.rows <= most; s.rows++) {
        s.at = (placement)(s.rows % PLACEMENTS);
        s.indexed = s.rows % 2;
        s.n = s.rows % 4 < 2 ? 17 : 32;
        try_rows(run, verify, &s);
    }
}

static void sweep_dtypes(const kern_run *run, kern_case *verify, int block, int most)
{
    sweep(run, verify, HYPERATTN_BF16, block, most);
    if (run->arith->pair == 1) {
        sweep(run, verify, HYPERATTN_F32, block, most);
        sweep(run, verify, HYPERATTN_F16, block, most);
    }
}

void kern_load_q(const kern_run *run)
{
    sweep_dtypes(run, load_q_case, run->arith->mr, run->arith->br);
    rows_shape s = {.dtype = HYPERATTN_BF16, .rows = 256, .n = 256};
    kern_try(run, every_pattern_case, &s, "every bf16");
    s.dtype = HYPERATTN_F16;
    if (run->arith->pair == 1)
        kern_try(run, every_pattern_case, &s, "every f16");
}

void kern_pack_k(const kern_run *run)
{
    sweep_dtypes(run, pack_k_case, run->arith->nr, run->arith->bc);
}

void kern_pack_v(const kern_run *run)
{
    sweep_dtypes(run, pack_v_case, run->arith->nr, run->arith->bc);
}

/* ---- dot products ---------------------------------------------------------------------------- */

/* Two sources, which may be of different dtypes, against float64. */
static const char *dot_rows_case(const kern_run *run, rng *r, const void *arg)
{
    const rows_shape *shape = arg;
    rows_shape other = *shape;
    other.indexed = (int)rng_below(r, 2);
    other.dtype = rng_below(r, 3) ? shape->dtype : (hyperattn_dtype)rng_below(r, 3);
    source a = source_new(shape, r, rng_below(r, 2) ? ORDINARY : ANYTHING);
    source b = source_new(&other, r, ORDINARY);
    guarded dot = kern_floats(shape->rows, shape->at);
    run->table->dot_rows((float *)dot.data, &a.rows, &b.rows, shape->rows, shape->n);
    kern_worst w = {0};
    for (int64_t i = 0; i < shape->rows; i++) {
        double sum = 0, size = 0;
        for (int64_t c = 0; c < shape->n; c++) {
            double term = (double)source_value(&a, i, c) * (double)source_value(&b, i, c);
            sum += term;
            size += isfinite(term) ? fabs(term) : 0;
        }
        if (size < 0x1p127) /* else f32 may overflow, or not */
            kern_near(&w, "dot", 0, i, sum, ((const float *)dot.data)[i],
                      0x1p-24 * (double)(shape->n + 2) * size + 0x1p-140);
    }
    const char *why = first_of(kern_verdict(&w), guarded_check(&dot));
    guarded_free(&dot);
    source_free(&a);
    source_free(&b);
    return why;
}

void kern_dot_rows(const kern_run *run)
{
    for (int dtype = 0; dtype < 3; dtype++)
        sweep(run, dot_rows_case, (hyperattn_dtype)dtype, run->arith->lanes, 40);
}
