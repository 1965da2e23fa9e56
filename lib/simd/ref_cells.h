/* SPDX-License-Identifier: Apache-2.0
 *
 * The plain specification of MULTIPOLE's kernels; part of ref.c, behind its value_at.
 */

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

static int64_t scan_codes(const ha_scan *t)
{
    int64_t found = 0;
    for (int64_t j = 0; j < t->ncells * t->blocks * HA_CODE_KEYS && found < t->room; j++) {
        const uint8_t *block = t->codes + j / HA_CODE_KEYS * HA_CODE * HA_CODE_KEYS;
        int sum = 0, threshold = t->threshold[j / HA_CODE_KEYS / t->blocks];
        for (int i = 0; i < HA_CODE; i++)
            sum += t->q[i] * block[(i / 2 * HA_CODE_KEYS + j % HA_CODE_KEYS) * 2 + i % 2];
        if (threshold != INT16_MAX && sum > threshold)
            t->hit[found++] = (uint32_t)j;
    }
    return found;
}
