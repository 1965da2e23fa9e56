/* SPDX-License-Identifier: Apache-2.0
 *
 * Tests of the kernels that pack rows: load_q, pack_k and pack_v. All of them are exact, or round
 * once, so the results are compared bit by bit with the layout that lib/kernels.h describes.
 */
#include <math.h>

#include "kern_source.h"

/* ---- comparing units ------------------------------------------------------------------------- */

/* Whether both are NaN. A kernel may give it any payload but that of what it has not written, and
 * one of bf16 is quiet where it was made by rounding. */
static int is_same_nan(const ha_arith *a, uint32_t expected, uint32_t got)
{
    if (!isnan(kern_float(expected)) || !isnan(kern_float(got)))
        return 0;
    return a->pair == 2 ? (got & 0x400000) != 0 : !is_signalling(&got, 0, HYPERATTN_F32);
}

/* A unit that should hold value (i, c) or, in bf16 arithmetic, that and value (i2, c2). */
static void check_unit(kern_worst *w, const ha_arith *a, const source *s, const char *what,
                       int64_t x, int64_t y, uint32_t got, int64_t i, int64_t c, int64_t i2,
                       int64_t c2)
{
    uint32_t expected = source_packed(s, a, i, c);
    if (a->pair == 2) {
        uint32_t low = expected, high = source_packed(s, a, i2, c2);
        int rounded = s->rows.dtype != HYPERATTN_BF16;
        if (rounded && is_same_nan(a, low << 16, got << 16))
            low = got & 0xffff;
        if (rounded && is_same_nan(a, high << 16, got))
            high = got >> 16;
        expected = low | high << 16;
    } else if (is_same_nan(a, expected, got)) {
        expected = got;
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

static const char *load_q_case(const kern_run *run, rng *r, const void *arg)
{
    const rows_shape *shape = arg;
    const ha_arith *a = run->arith;
    source s = source_new(shape, a, r);
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

/* ---- key panels ------------------------------------------------------------------------------ */

static const char *pack_k_case(const kern_run *run, rng *r, const void *arg)
{
    const rows_shape *shape = arg;
    const ha_arith *a = run->arith;
    source s = source_new(shape, a, r);
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

/* Puts an Inf or NaN, or what rounding to bf16 leaves just finite or not, in one place, often the
 * last key or column. */
static void spoil(source *s, rng *r)
{
    static const double odd[] = {INFINITY, -INFINITY, NAN, 0x1.ffp127, -0x1.fefffep127};
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
    source s = source_new(shape, a, r);
    if (rng_below(r, 2))
        spoil(&s, r);
    int64_t panel = a->nr / a->pair, vfirst = rng_below(r, 3) * panel;
    int64_t vpanel = vfirst + ha_round_up(shape->rows, a->nr) / a->pair + rng_below(r, 2) * panel;
    guarded dst = guarded_new(ha_v_bytes(a, vpanel * a->pair, shape->n), shape->at);
    fill_signalling(dst.data, (int64_t)dst.size / 4, HYPERATTN_F32);
    int finite = a->pack_v(dst.data, vpanel, vfirst, &s.rows, shape->rows, shape->n);
    const char *why = first_of(check_panels(a, shape->n), guarded_check(&dst));
    why = first_of(why, check_v(a, &s, (const uint32_t *)dst.data, vpanel, vfirst));
    if (!why && finite != source_finite(&s, a))
        why = failure("returned %d for values that, packed, %s", finite,
                      finite ? "hold an Inf or NaN" : "are finite");
    guarded_free(&dst);
    source_free(&s);
    return why;
}

/* ---- shapes ---------------------------------------------------------------------------------- */

static void every_dtype(const kern_run *run, kern_case *verify, rows_values values, int block,
                        int most)
{
    for (int dtype = 0; dtype < 3; dtype++) {
        rows_shape s = {.dtype = (hyperattn_dtype)dtype, .values = values};
        kern_sweep_rows(run, verify, s, block, most);
        s = (rows_shape){.dtype = s.dtype, .rows = 256, .n = 256, .values = EVERY_PATTERN};
        if (s.dtype == HYPERATTN_F32)
            s.rows *= ROWS_LOWER_HALVES;
        kern_try(run, verify, &s, "every %s%s", s.dtype == HYPERATTN_F32 ? "corner of " : "",
                 dtype_name(s.dtype));
    }
}

void kern_load_q(const kern_run *run)
{
    every_dtype(run, load_q_case, ANYTHING, run->arith->mr, run->arith->br);
}

void kern_pack_k(const kern_run *run)
{
    every_dtype(run, pack_k_case, ANYTHING, run->arith->nr, run->arith->bc);
}

void kern_pack_v(const kern_run *run)
{
    every_dtype(run, pack_v_case, FINITE, run->arith->nr, run->arith->bc);
}
