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

/* Bits 2 i of a cell's blocks number b and, where there is one, b + 1: one branch is mispredicted
 * less than two. */
static inline __attribute__((always_inline)) uint64_t above_in(const ha_scan *t, const vcode *q,
                                                               int64_t b, int n, vcode_sums least)
{
    const uint8_t *block = t->codes + b * HA_CODE_BLOCK;
    uint64_t above = vcode_above(vcode_sum(block, q), least);
    if (n > 1)
        above |= (uint64_t)vcode_above(vcode_sum(block + HA_CODE_BLOCK, q), least) << 32;
    return above;
}

/* Hits of a row in one cell, behind `found` others. */
static inline __attribute__((always_inline)) int64_t scan_cell(const ha_scan *t, const vcode *q,
                                                               uint32_t *hit, int64_t cell,
                                                               int16_t threshold, int64_t found)
{
    const vcode_sums least = vcode_set1(threshold);
    for (int64_t b = cell * t->blocks; b < (cell + 1) * t->blocks; b += 2) {
        uint64_t above = above_in(t, q, b, t->blocks, least);
        for (; above && found < t->room; above &= above - 1)
            hit[found++] = (uint32_t)(b * HA_CODE_KEYS + __builtin_ctzll(above) / 2);
    }
    return found;
}

/* What sums are above that are hits in the cells of a set, for one row: the integers below their
 * need by one, as sums are integers, within what a sum can be. `base` is one less than the sum of
 * codes that are all HA_CODE_MIDDLE. */
static inline vcode_sums thresholds_of(const ha_scan *t, int64_t set, int row, int base)
{
    const vf least = vset1(t->least[row]), scale = vset1(t->scale), per_unit = vset1(1 / t->unit[row]);
    const float *score = t->score + (row * t->nsets + set) * HA_CODE_KEYS;
    vf spare[HA_CODE_KEYS / VLEN]; /* a need with its sign turned: so vmax takes a NaN for none */
    for (int x = 0; x < HA_CODE_KEYS / VLEN; x++) {
        vf y = vmul(vsub(vmul(scale, vload(score + x * VLEN)), least), per_unit);
        spare[x] = vmin(vset1(HA_SCAN_MOST), vmax(y, vset1(-HA_SCAN_MOST - 2)));
    }
    return vcode_subs(vcode_set1((int16_t)base), vcode_truncate(spare));
}

typedef struct row_code {
    vcode q, size; /* its numbers, and their absolute values */
    int base; /* see thresholds_of */
} row_code;

static void load_code(row_code *code, const int8_t *q)
{
    int8_t size[HA_CODE];
    for (int i = 0; i < HA_CODE; i++)
        size[i] = (int8_t)(q[i] < 0 ? -q[i] : q[i]);
    code->q = vcode_load(q);
    code->size = vcode_load(size);
    code->base = ha_scan_base(q);
}

static void scan_codes(const ha_scan *t)
{
    row_code rows[HA_SCAN_ROWS];
    for (int r = 0; r < t->rows; r++) {
        load_code(&rows[r], t->q + r * HA_CODE);
        t->found[r] = 0;
    }
    for (int64_t s = 0; s < t->nsets; s++) {
        const uint8_t *box = t->boxes + 2 * s * HA_CODE_BLOCK;
        for (int r = 0; r < t->rows; r++) {
            const row_code *row = &rows[r];
            vcode_sums least = thresholds_of(t, s, r, row->base);
            vcode_sums most = vcode_adds(vcode_sum(box, &row->q),
                                         vcode_sum(box + HA_CODE_BLOCK, &row->size));
            int16_t threshold[HA_CODE_KEYS];
            vcode_sums_store(threshold, least);
            for (uint32_t near = vcode_above(most, least); near; near &= near - 1) {
                int x = __builtin_ctz(near) / 2;
                t->found[r] = scan_cell(t, &row->q, t->hit + r * t->room, s * HA_CODE_KEYS + x,
                                        threshold[x], t->found[r]);
            }
        }
    }
}
