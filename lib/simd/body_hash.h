/* SPDX-License-Identifier: Apache-2.0
 *
 * What sortLSH does with rows: projections, and the sums and sign bits of those, in the vocabulary
 * of a vec_*.h.
 */

/* nv vectors of projections of mr rows, the first `rows` of which are stored. */
static inline __attribute__((always_inline)) void project_block(float *proj, int64_t ld,
                                                                const float *x, int64_t ldx,
                                                                const float *g, int64_t rows,
                                                                int64_t head_dim, int mr, int nv)
{
    vf acc[MR * NRV][NRV];
    for (int i = 0; i < mr; i++)
        for (int j = 0; j < nv; j++)
            acc[i][j] = vzero();
    block(acc, mr, nv, x, ldx, g, NR, head_dim, 1, vmadd);
    for (int i = 0; i < mr; i++) /* all rows, or acc would be kept in memory */
        for (int j = 0; j < nv; j++)
            if (i < rows)
                vstore(proj + i * ld + j * VLEN, acc[i][j]);
}

/* Blocks as tall as the accumulators of a full block allow, but of nine rows at most: more are more
 * streams than the hardware follows. Then blocks of MR rows. */
static inline __attribute__((always_inline)) void project_rows(float *proj, int64_t ld,
                                                               const float *x, int64_t ldx,
                                                               const float *g, int64_t rows,
                                                               int64_t head_dim, int nv)
{
    const int most = NRV / nv < 9 / MR ? NRV / nv : 9 / MR, tall = MR * (most ? most : 1);
    int64_t i = 0;
    for (; i + tall <= rows; i += tall) {
        /* these rows come from memory, where the hardware alone reaches half of its rate */
        for (int64_t next = i + 2 * tall; next < i + 3 * tall && next < rows; next++)
            prefetch(x + next * ldx, (head_dim + 15) / 16);
        project_block(proj + i * ld, ld, x + i * ldx, ldx, g, tall, head_dim, tall, nv);
    }
    for (; i < rows; i += MR)
        project_block(proj + i * ld, ld, x + i * ldx, ldx, g, rows - i, head_dim, MR, nv);
}

static void project(float *proj, int64_t ld, const float *x, int64_t ldx, const float *g,
                    int64_t rows, int64_t head_dim, int64_t r)
{
    for (; r > 0; r -= NR, proj += NR, g += NR * head_dim) {
        switch (r < NR ? (r + VLEN - 1) / VLEN : NRV) {
        case 1: project_rows(proj, ld, x, ldx, g, rows, head_dim, 1); break;
        case 2: project_rows(proj, ld, x, ldx, g, rows, head_dim, 2); break;
        case 3: project_rows(proj, ld, x, ldx, g, rows, head_dim, 3); break;
        default: project_rows(proj, ld, x, ldx, g, rows, head_dim, 4); break;
        }
    }
}

/* Rows whose sum is taken in f32 before it joins a double. */
#define SUM_ROWS 64

static int column_sums(double *sum, const float *x, int64_t ld, int64_t rows, int r)
{
    vf odd = vzero(); /* becomes NaN with the first number that is not finite */
    for (int c = 0; c < r; c += VLEN) {
        double total[VLEN] = {0};
        for (int64_t first = 0; first < rows; first += SUM_ROWS) {
            int64_t end = rows - first < SUM_ROWS ? rows : first + SUM_ROWS;
            float part[VLEN];
            vf acc = vzero();
            for (int64_t i = first; i < end; i++) {
                vf y = vload(x + i * ld + c);
                odd = vfma(y, vzero(), odd);
                acc = vadd(acc, y);
            }
            odd = vfma(acc, vzero(), odd);
            vstore(part, acc);
            for (int j = 0; j < VLEN; j++)
                total[j] += (double)part[j];
        }
        for (int j = c; j < r && j < c + VLEN; j++)
            sum[j] = total[j - c];
    }
    return vhsum(odd) == 0;
}

static void above_bits(uint16_t *bits, const float *x, int64_t ld, const float *base, int64_t rows,
                       int r)
{
    const unsigned wanted = (1u << r) - 1;
    vf low[HA_MAX_PROJS / VLEN];
    for (int c = 0; c < HA_MAX_PROJS; c += VLEN)
        low[c / VLEN] = vload(base + c);
    for (int64_t i = 0; i < rows; i++, x += ld) {
        unsigned above = 0;
        for (int c = 0; c < r; c += VLEN)
            above |= vabove(vload(x + c), low[c / VLEN]) << c;
        bits[i] = (uint16_t)(above & wanted);
    }
}
