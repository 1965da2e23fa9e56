/* SPDX-License-Identifier: Apache-2.0
 *
 * The C reference of every kernel, and the portable level.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"
#include "simd/half.h"

#define MR 4
#define NR 16
#define BR 48
#define BC 128

static float value_at(const char *row, hyperattn_dtype dtype, int64_t c)
{
    switch (dtype) {
    case HYPERATTN_F32: return ((const float *)row)[c];
    case HYPERATTN_BF16: return ha_bf16_to_f32(((const uint16_t *)row)[c]);
    case HYPERATTN_F16: break;
    }
    return ha_f16_to_f32(((const uint16_t *)row)[c]);
}

/* 2^x, exactly 0 where a vector level's is. */
static float exp2_value(float x)
{
    return x < -126.5f ? 0 : exp2f(x);
}

#include "ref_cells.h"

static void load_row(float *dst, const ha_rows *src, int64_t i, int64_t n)
{
    const char *row = ha_row_at(src, i);
    for (int64_t c = 0; c < n; c++)
        dst[c] = value_at(row, src->dtype, c);
}

static void load_q(void *dst, const ha_rows *src, int64_t rows, int64_t head_dim)
{
    float *q = dst;
    for (int64_t i = 0; i < rows; i++)
        load_row(q + i * head_dim, src, i, head_dim);
    int64_t pad = ha_round_up(rows, MR) - rows;
    memset(q + rows * head_dim, 0, (size_t)(pad * head_dim) * sizeof *q);
}

static void pack_k(void *dst, const ha_rows *src, int64_t nkeys, int64_t head_dim)
{
    for (int64_t i = 0; i < ha_round_up(nkeys, NR); i++) {
        float *panel = (float *)dst + i / NR * NR * head_dim + i % NR;
        const char *row = i < nkeys ? ha_row_at(src, i) : NULL;
        for (int64_t c = 0; c < head_dim; c++)
            panel[c * NR] = row ? value_at(row, src->dtype, c) : 0;
    }
}

static int pack_v(void *dst, int64_t vpanel, int64_t vfirst, const ha_rows *src, int64_t nkeys,
                  int64_t columns)
{
    ha_panels panels = ha_column_panels(columns, 1, NR);
    int64_t width;
    int finite = 1;
    for (int64_t i = 0; i < ha_round_up(nkeys, NR); i++) {
        const char *row = i < nkeys ? ha_row_at(src, i) : NULL;
        for (int64_t c = 0; c < columns; c += width) {
            width = ha_panel_width(&panels, c);
            float *p = (float *)dst + c * vpanel + (vfirst + i) * width;
            for (int64_t j = 0; j < width; j++) {
                p[j] = row ? value_at(row, src->dtype, c + j) : 0;
                finite &= isfinite(p[j]) != 0;
            }
        }
    }
    return finite;
}

static void exp2_array(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = exp2_value(x[i]);
}

static int row_keys(const ha_tile *t, int i)
{
    int keys = t->limit ? t->limit[i] : t->keys;
    return keys < 0 ? 0 : keys < t->keys ? keys : t->keys;
}

/* The products of a row with the NR rows of a panel, all of n columns. */
static void panel_dots(float sum[NR], const float *row, const float *panel, int64_t n)
{
    memset(sum, 0, NR * sizeof *sum);
    for (int64_t x = 0; x < n; x++)
        for (int j = 0; j < NR; j++)
            sum[j] += row[x] * panel[x * NR + j];
}

/* Scores of row i in the log2 domain; returns the largest. */
static float scores(const ha_tile *t, int i, float *s, int keys)
{
    const float *q = (const float *)t->q + (int64_t)i * t->head_dim;
    float top = -INFINITY, sum[NR];
    for (int c = 0; c < keys; c += NR) {
        panel_dots(sum, q, (const float *)t->k + (int64_t)c * t->head_dim, t->head_dim);
        for (int j = 0; j < NR && c + j < keys; j++) {
            float score = sum[j] * t->scale + t->logw[c + j];
            s[c + j] = t->cap && score > t->cap[i] ? t->cap[i] : score;
            top = s[c + j] > top ? s[c + j] : top;
        }
    }
    return top;
}

/* A row's maximum becomes top, and its sums become relative to it. */
static void grow_max(float *m, float *l, float *acc, int columns, float top)
{
    if (*m != -INFINITY) {
        float alpha = exp2_value(*m - top);
        *l *= alpha;
        for (int c = 0; c < columns; c++)
            acc[c] *= alpha;
    }
    *m = top;
}

static void attend_row(const ha_tile *t, int i)
{
    float *s = t->scratch;
    int keys = row_keys(t, i);
    float top = scores(t, i, s, keys);
    if (top > t->m[i])
        grow_max(&t->m[i], &t->l[i], t->acc + i * t->ldacc, t->head_dim_v, top);
    float base = t->m[i] == -INFINITY ? 0 : t->m[i];
    for (int j = 0; j < keys; j++)
        t->l[i] += s[j] = exp2_value(s[j] - base);
    ha_panels panels = ha_column_panels(t->head_dim_v, 1, NR);
    int64_t width;
    for (int64_t c = 0; c < t->head_dim_v; c += width) {
        width = ha_panel_width(&panels, c);
        const float *v = (const float *)t->v + c * t->vpanel;
        float *acc = t->acc + i * t->ldacc + c;
        for (int j = 0; j < keys; j++)
            for (int64_t x = 0; x < width; x++)
                acc[x] += s[j] * v[(t->vfirst + j) * width + x];
    }
}

static void attend(const ha_tile *t)
{
    for (int i = 0; i < t->rows; i++)
        attend_row(t, i);
}

/* Row i and keys [first, first + n), n <= BC. */
static void in_place_keys(const ha_in_place *t, int i, int first, int n)
{
    float s[BC], top = -INFINITY, *acc = t->acc + i * t->ldacc;
    for (int j = 0; j < n; j++) {
        const char *k = ha_row_at(&t->k, first + j);
        float sum = 0;
        for (int x = 0; x < t->head_dim; x++)
            sum += t->q[i * t->ldq + x] * value_at(k, t->k.dtype, x);
        s[j] = sum * t->scale;
        top = s[j] > top ? s[j] : top;
    }
    if (top > t->m[i])
        grow_max(&t->m[i], &t->l[i], acc, t->head_dim_v, top);
    float base = t->m[i] == -INFINITY ? 0 : t->m[i];
    for (int j = 0; j < n; j++) {
        const char *v = ha_row_at(&t->v, first + j);
        float weight = exp2_value(s[j] - base);
        t->l[i] += weight;
        for (int c = 0; c < t->head_dim_v; c++)
            acc[c] += weight * value_at(v, t->v.dtype, c);
    }
}

static void attend_in_place(const ha_in_place *t)
{
    for (int i = 0; i < t->rows; i++) {
        int keys = t->limit && t->limit[i] < t->nkeys ? t->limit[i] : t->nkeys;
        for (int j = 0; j < keys; j += BC)
            in_place_keys(t, i, j, keys - j < BC ? keys - j : BC);
    }
}

/* dst += weight * row i of a column pack of n columns, whose panels have `depth` units. */
static void add_packed(float *dst, float weight, const void *pack, int64_t depth, int64_t i,
                       int64_t n)
{
    ha_panels panels = ha_column_panels(n, 1, NR);
    int64_t width;
    for (int64_t c = 0; c < n; c += width) {
        width = ha_panel_width(&panels, c);
        const float *row = (const float *)pack + c * depth + i * width;
        for (int64_t x = 0; x < width; x++)
            dst[c + x] += weight * row[x];
    }
}

/* Row i and key j, whose score is s and whose dout_i.v_j is dp. */
static void backward_entry(const ha_grad_tile *t, int i, int j, float s, float dp)
{
    int capped = t->cap && s >= t->cap[i];
    float x = (capped ? t->cap[i] : s) - t->lse[i], p = exp2_value(x > 0 ? 0 : x);
    float slope = dp - t->delta[i];
    add_packed(t->dv + j * t->lddv, p, t->dout_sum, t->rpanel, t->rfirst + i, t->head_dim_v);
    if (capped) {
        t->capped[i] += slope;
        return;
    }
    add_packed(t->dk + j * t->lddk, p * slope, t->q_sum, t->rpanel, t->rfirst + i, t->head_dim);
    add_packed(t->dq + i * t->lddq, p * slope, t->k_sum, t->kpanel, t->kfirst + j, t->head_dim);
}

static void backward(const ha_grad_tile *t)
{
    float s[NR], dp[NR];
    for (int i = 0; i < t->rows; i++) {
        const float *q = (const float *)t->q + (int64_t)i * t->head_dim;
        const float *dout = (const float *)t->dout + (int64_t)i * t->head_dim_v;
        int seen = t->limit && t->limit[i] < t->keys ? t->limit[i] : t->keys;
        for (int c = 0; c < seen; c += NR) {
            panel_dots(s, q, (const float *)t->k + (int64_t)c * t->head_dim, t->head_dim);
            panel_dots(dp, dout, (const float *)t->v + (int64_t)c * t->head_dim_v, t->head_dim_v);
            for (int j = c; j < seen && j < c + NR; j++)
                backward_entry(t, i, j, s[j - c] * t->scale + t->logw[j], dp[j - c]);
        }
    }
}

static void dot_rows(float *dot, const ha_rows *a, const ha_rows *b, int64_t rows, int64_t n)
{
    for (int64_t i = 0; i < rows; i++) {
        const char *x = ha_row_at(a, i), *y = ha_row_at(b, i);
        double sum = 0;
        for (int64_t c = 0; c < n; c++)
            sum += (double)value_at(x, a->dtype, c) * (double)value_at(y, b->dtype, c);
        dot[i] = (float)sum;
    }
}

static void project(float *proj, int64_t ld, const float *x, int64_t ldx, const float *g,
                    int64_t rows, int64_t head_dim, int64_t r)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < r; j++) {
            const float *panel = g + j / NR * NR * head_dim;
            float sum = 0;
            for (int64_t c = 0; c < head_dim; c++)
                sum += x[i * ldx + c] * panel[c * NR + j % NR];
            proj[i * ld + j] = sum;
        }
}

static int column_sums(double *sum, const float *x, int64_t ld, int64_t rows, int r)
{
    int finite = 1;
    for (int j = 0; j < r; j++) {
        sum[j] = 0;
        for (int64_t i = 0; i < rows; i++) {
            finite &= isfinite(x[i * ld + j]) != 0;
            sum[j] += (double)x[i * ld + j];
        }
    }
    return finite;
}

static void above_bits(uint16_t *bits, const float *x, int64_t ld, const float *base, int64_t rows,
                       int r)
{
    for (int64_t i = 0; i < rows; i++) {
        unsigned above = 0;
        for (int j = 0; j < r; j++)
            above |= (unsigned)(x[i * ld + j] > base[j]) << j;
        bits[i] = (uint16_t)above;
    }
}

static void store_rows(const ha_out_rows *dst, const float *acc, int64_t ldacc, const float *inv,
                       int64_t rows, int64_t columns)
{
    for (int64_t i = 0; i < rows; i++) {
        int64_t row = dst->index ? (int64_t)dst->index[i] : dst->first + i;
        for (int64_t c = 0; c < columns; c++) {
            float x = acc[i * ldacc + c] * inv[i];
            int64_t at = row * dst->stride + c;
            switch (dst->dtype) {
            case HYPERATTN_F32: ((float *)dst->base)[at] = x; break;
            case HYPERATTN_BF16: ((uint16_t *)dst->base)[at] = ha_f32_to_bf16(x); break;
            case HYPERATTN_F16: ((uint16_t *)dst->base)[at] = ha_f32_to_f16(x); break;
            }
        }
    }
}

static double f32_peak(int64_t iters)
{
    float acc[NR], a = 1e-30f, b = 0.5f;
    for (int j = 0; j < NR; j++)
        acc[j] = (float)j;
    for (int64_t x = 0; x < iters; x++) {
        __asm__ volatile("" : "+m"(a), "+m"(b));
        for (int j = 0; j < NR; j++)
            acc[j] += a * b;
    }
    volatile float sink = acc[0] + acc[NR - 1];
    (void)sink;
    return 2.0 * NR * (double)iters;
}

const ha_kernels ha_kernels_ref = {
    .name = "ref",
    .f32 = {.mr = MR, .nr = NR, .lanes = 1, .br = BR, .bc = BC, .pair = 1, .row_units = 1,
            .load_q = load_q, .pack_k = pack_k, .pack_v = pack_v, .attend = attend,
            .gr = BR, .gc = BC, .grad_scratch = 0, .backward = backward},
    .attend_in_place = attend_in_place,
    .project = project,
    .column_sums = column_sums,
    .above_bits = above_bits,
    .store_rows = store_rows,
    .dot_rows = dot_rows,
    .f32_peak = f32_peak,
    .exp2 = exp2_array,
    .log_sum_exp = log_sum_exp,
    .score_rows = score_rows,
    .sum_rows = sum_rows,
    .scan_codes = scan_codes,
};
