/* SPDX-License-Identifier: Apache-2.0
 *
 * The plain specification of MULTIPOLE's kernels; part of ref.c, behind its value_at.
 */

static float log_sum_exp(const float *w, const float *x, float scale, int64_t n)
{
    float top = -INFINITY, sum = 0;
    for (int64_t j = 0; j < n; j++)
        top = w[j] + scale * x[j] > top ? w[j] + scale * x[j] : top;
    if (top == -INFINITY)
        return top;
    for (int64_t j = 0; j < n; j++)
        sum += exp2_value(w[j] + scale * x[j] - top);
    return top + log2f(sum);
}

static void score_rows(const ha_scores *t)
{
    for (int64_t j = 0; j < t->nkeys; j++)
        for (int i = 0; i < t->rows; i++) {
            const char *k = ha_row_at(&t->k, j);
            float sum = 0;
            for (int64_t c = 0; c < t->columns; c++)
                sum += t->q[i * t->ldq + c] * value_at(k, t->k.dtype, c);
            t->s[j * t->rows + i] = sum * t->scale;
        }
}

static void sum_rows(float *sum, const ha_rows *x, const float *w, int64_t ldw, int64_t nrows,
                     int64_t columns)
{
    for (int64_t c = 0; c < columns; c++) {
        sum[c] = 0;
        for (int64_t j = 0; j < nrows; j++)
            sum[c] += w[j * ldw] * value_at(ha_row_at(x, j), x->dtype, c);
    }
}

/* sum_i q_i code_i of key x of a block. */
static int code_sum(const uint8_t *block, const int8_t *q, int x)
{
    int sum = 0;
    for (int i = 0; i < HA_CODE; i++)
        sum += q[i] * block[(i / 2 * HA_CODE_KEYS + x) * 2 + i % 2];
    return sum;
}

static int box_is_near(const uint8_t *box, const int8_t *q, int x, int threshold)
{
    int8_t size[HA_CODE];
    for (int i = 0; i < HA_CODE; i++)
        size[i] = (int8_t)abs(q[i]);
    return code_sum(box, q, x) + code_sum(box + HA_CODE_BLOCK, size, x) > threshold;
}

static int64_t scan_row(const ha_scan *t, int row)
{
    const int8_t *q = t->q + row * HA_CODE;
    int64_t found = 0, keys = t->blocks * HA_CODE_KEYS;
    for (int64_t cell = 0; cell < t->nsets * HA_CODE_KEYS; cell++) {
        float score = t->score[row * t->nsets * HA_CODE_KEYS + cell];
        float spare = (t->scale * score - t->least[row]) * (1 / t->unit[row]);
        spare = spare > -HA_SCAN_MOST - 2 ? spare : -HA_SCAN_MOST - 2; /* also for a NaN */
        spare = spare < HA_SCAN_MOST ? spare : HA_SCAN_MOST;
        int threshold = ha_scan_base(q) - (int)spare;
        if (!box_is_near(t->boxes + cell / HA_CODE_KEYS * 2 * HA_CODE_BLOCK, q,
                         (int)(cell % HA_CODE_KEYS), threshold))
            continue;
        for (int64_t j = cell * keys; j < (cell + 1) * keys && found < t->room; j++)
            if (code_sum(t->codes + j / HA_CODE_KEYS * HA_CODE_BLOCK, q,
                         (int)(j % HA_CODE_KEYS)) > threshold)
                t->hit[row * t->room + found++] = (uint32_t)j;
    }
    return found;
}

static void scan_codes(const ha_scan *t)
{
    for (int row = 0; row < t->rows; row++)
        t->found[row] = scan_row(t, row);
}
