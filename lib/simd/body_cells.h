/* SPDX-License-Identifier: Apache-2.0
 *
 * Kernels of MULTIPOLE: plain scores of a few rows against keys where they lie, weighted sums of
 * rows, and codes. Written in the vocabulary of a vec_*.h, after body_in_place.h, whose steps they
 * share.
 */

/* ---- score_rows ------------------------------------------------------------------------------ */

static inline __attribute__((always_inline)) void score_rows_as(const ha_scores *t,
                                                                hyperattn_dtype dtype, int rows)
{
    const int64_t n = t->columns, whole = n / VLEN * VLEN;
    const int keys = SUMS / rows;
    const vf scale = vset1(t->scale);
    const float *q[4];
    for (int i = 0; i < rows; i++)
        q[i] = t->q + i * t->ldq;
    float *s = t->s;
    for (int64_t j = 0; j < t->nkeys; j += keys, s += SUMS) {
        const char *k[SUMS];
        vf acc[SUMS];
        for (int x = 0; x < keys; x++)
            k[x] = ha_row_at(&t->k, j + x < t->nkeys ? j + x : t->nkeys - 1);
        for (int x = 0; x < keys; x++)
            prefetch_row(&t->k, j + x + AHEAD, t->nkeys, n);
        for (int x = 0; x < SUMS; x++)
            acc[x] = vzero();
        for (int64_t c = 0; c < whole; c += VLEN)
            dots_step(acc, q, k, c, c + VLEN, dtype, rows);
        if (whole < n)
            dots_step(acc, q, k, whole, n, dtype, rows);
        for (int x = 0; x < SUMS; x += VLEN)
            vstore(s + x, vmul(vsums(acc + x), scale));
    }
}

static void score_rows(const ha_scores *t)
{
    BY_ROWS(score_rows_as, t->rows, t->k.dtype, t)
}

#undef SUMS

/* ---- sum_rows -------------------------------------------------------------------------------- */

/* Columns from c on, nv vectors of them, of which n columns exist. */
static inline __attribute__((always_inline)) void sum_block(float *sum, const ha_rows *x,
                                                            const float *w, int64_t ldw,
                                                            int64_t nrows, int64_t c, int64_t n,
                                                            hyperattn_dtype dtype, int nv)
{
    vf acc[8];
    for (int i = 0; i < nv; i++)
        acc[i] = vzero();
    for (int64_t j = 0; j < nrows; j++) {
        const char *row = ha_row_at(x, j);
        vf y = vset1(w[j * ldw]);
        for (int i = 0; i < nv; i++)
            acc[i] = vmadd(y, load_row(row, dtype, c + i * VLEN, n), acc[i]);
    }
    for (int i = 0; i < nv; i++)
        vstore(sum + c + i * VLEN, acc[i]);
}

static inline __attribute__((always_inline)) void sum_rows_as(float *sum, const ha_rows *x,
                                                              const float *w, int64_t ldw,
                                                              int64_t nrows, int64_t n,
                                                              hyperattn_dtype dtype)
{
    int64_t c = 0;
    for (; c + 8 * VLEN <= n; c += 8 * VLEN)
        sum_block(sum, x, w, ldw, nrows, c, c + 8 * VLEN, dtype, 8);
    for (; c + 4 * VLEN <= n; c += 4 * VLEN)
        sum_block(sum, x, w, ldw, nrows, c, c + 4 * VLEN, dtype, 4);
    for (; c + VLEN <= n; c += VLEN)
        sum_block(sum, x, w, ldw, nrows, c, c + VLEN, dtype, 1);
    if (c < n)
        sum_block(sum, x, w, ldw, nrows, c, n, dtype, 1);
}

static void sum_rows(float *sum, const ha_rows *x, const float *w, int64_t ldw, int64_t nrows,
                     int64_t columns)
{
    switch (x->dtype) {
    case HYPERATTN_F32: sum_rows_as(sum, x, w, ldw, nrows, columns, HYPERATTN_F32); break;
    case HYPERATTN_BF16: sum_rows_as(sum, x, w, ldw, nrows, columns, HYPERATTN_BF16); break;
    case HYPERATTN_F16: sum_rows_as(sum, x, w, ldw, nrows, columns, HYPERATTN_F16); break;
    }
}

/* ---- log_sum_exp ----------------------------------------------------------------------------- */

static float log_sum_exp(const float *w, const float *x, float scale, int64_t n)
{
    const vf s = vset1(scale), least = vset1(-INFINITY);
    vf top = least, sum = vzero();
    for (int64_t j = 0; j < n; j += VLEN) {
        int left = n - j < VLEN ? (int)(n - j) : VLEN;
        vf y = vmadd(s, vload_n(x + j, left), vload_n(w + j, left));
        top = vmax(vkeep(y, least, left), top);
    }
    const float most = vhmax(top);
    if (most == -INFINITY)
        return most;
    for (int64_t j = 0; j < n; j += VLEN) {
        int left = n - j < VLEN ? (int)(n - j) : VLEN;
        vf y = vsub(vset1(most), vmadd(s, vload_n(x + j, left), vload_n(w + j, left)));
        vexp2_neg(&y, 1);
        sum = vadd(sum, vkeep(y, vzero(), left));
    }
    return most + log2f(vhsum(sum));
}

/* ---- scan_codes ------------------------------------------------------------------------------ */

/* Hits of one cell, behind `found` others. */
static inline __attribute__((always_inline)) int64_t scan_cell(const ha_scan *t, const vcode *q,
                                                               int64_t cell, int16_t threshold,
                                                               int64_t found)
{
    const vcode_sums least = vcode_set1(threshold);
    for (int64_t b = cell * t->blocks; b < (cell + 1) * t->blocks; b++) {
        uint32_t above = vcode_above(vcode_sum(t->codes + b * HA_CODE_BLOCK, q), least);
        for (; above && found < t->room; above &= above - 1)
            t->hit[found++] = (uint32_t)(b * HA_CODE_KEYS + __builtin_ctz(above) / 2);
    }
    return found;
}

static int64_t scan_codes(const ha_scan *t)
{
    int16_t threshold[HA_CODE_KEYS];
    int8_t size[HA_CODE];
    int64_t found = 0;
    for (int i = 0; i < HA_CODE; i++)
        size[i] = (int8_t)(t->q[i] < 0 ? -t->q[i] : t->q[i]);
    const vcode q = vcode_load(t->q), reach = vcode_load(size);
    const int shift = ha_scan_shift(t->q);
    for (int64_t s = 0; s < t->nsets && found < t->room; s++) {
        const uint8_t *box = t->boxes + 2 * s * HA_CODE_BLOCK;
        ha_scan_thresholds(threshold, t, s, shift);
        vcode_sums most = vcode_adds(vcode_sum(box, &q), vcode_sum(box + HA_CODE_BLOCK, &reach));
        uint32_t near = vcode_above(most, vcode_sums_load(threshold));
        for (; near; near &= near - 1) {
            int x = __builtin_ctz(near) / 2;
            found = scan_cell(t, &q, s * HA_CODE_KEYS + x, threshold[x], found);
        }
    }
    return found;
}
