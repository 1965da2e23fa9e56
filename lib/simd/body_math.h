/* SPDX-License-Identifier: Apache-2.0
 *
 * 2^x, hash projections and the arithmetic peak, in the vocabulary of a vec_*.h.
 */

/* Loops over the depth are unrolled so that their own instructions take few slots from the
 * multiply-adds: eight times is 2 points of the peak better than four, sixteen no better. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll_count(8)")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

/* x = 2^x for n vectors, n a constant; x <= 0, about 1 ulp; below -126.5 zero, NaN for NaN.
 *
 * x is split into an integer i and f in [-1/2, 1/2]: adding 1.5 * 2^23 + 127 rounds to i and leaves
 * i + 127 in the low bits, which become the exponent. The polynomial interpolates 2^f at Chebyshev
 * nodes. The steps go over all n vectors in turn: one chain alone is bound by latency, for a core's
 * scheduler holds too few of its long iterations. */
static inline __attribute__((always_inline)) void vexp2(vf *x, int n)
{
    static const float c[] = {
        0x1.4440000000000p-13f, 0x1.5f48c00000000p-10f, 0x1.3b2a1c0000000p-7f,
        0x1.c6aecc0000000p-5f,  0x1.ebfbe00000000p-3f,  0x1.62e4300000000p-1f,
        1,
    };
    const vf magic = vset1(0x1.8p23f + 127);
    vf scale[4], p[4];
    for (int i = 0; i < n; i++) {
        x[i] = vmax(vset1(-127), x[i]);
        scale[i] = vadd(x[i], magic);
    }
    for (int i = 0; i < n; i++) {
        x[i] = vsub(x[i], vsub(scale[i], magic));
        p[i] = vfma(vset1(c[0]), x[i], vset1(c[1]));
    }
    for (int k = 2; k < 7; k++)
        for (int i = 0; i < n; i++)
            p[i] = vfma(p[i], x[i], vset1(c[k]));
    for (int i = 0; i < n; i++)
        x[i] = vmul(p[i], vshl23(scale[i]));
}

static void exp2_array(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i += VLEN) {
        int left = n - i < VLEN ? (int)(n - i) : VLEN;
        vf v = vload_n(x + i, left);
        vexp2(&v, 1);
        vstore_n(x + i, v, left);
    }
}

/* The register block of every product: acc_ij += sum_x a[i][x] * b[x][j], nv vectors wide. */
static inline __attribute__((always_inline)) void f32_block(vf acc[MR][NRV], int nv,
                                                            const float *a, int64_t lda,
                                                            const float *b, int64_t ldb,
                                                            int64_t depth)
{
    UNROLL
    for (int64_t x = 0; x < depth; x++, a++, b += ldb) {
        vf bv[NRV];
        for (int j = 0; j < nv; j++)
            bv[j] = vload(b + j * VLEN);
        for (int i = 0; i < MR; i++) {
            vf av = vset1(a[i * lda]);
            for (int j = 0; j < nv; j++)
                acc[i][j] = vfma(av, bv[j], acc[i][j]);
        }
    }
}

static inline __attribute__((always_inline)) void project_block(float *proj, int64_t ld,
                                                                const float *x, const float *g,
                                                                int rows, int64_t head_dim, int nv)
{
    vf acc[MR][NRV];
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < nv; j++)
            acc[i][j] = vzero();
    f32_block(acc, nv, x, ha_round_up(head_dim, VLEN), g, NR, head_dim);
    for (int i = 0; i < MR && i < rows; i++)
        for (int j = 0; j < nv; j++)
            vstore(proj + i * ld + j * VLEN, acc[i][j]);
}

static void project(float *proj, int64_t ld, const float *x, const float *g, int64_t rows,
                    int64_t head_dim, int r)
{
    int64_t ldx = ha_round_up(head_dim, VLEN);
    for (int64_t i = 0; i < rows; i += MR, proj += MR * ld, x += MR * ldx) {
        int left = rows - i < MR ? (int)(rows - i) : MR;
        switch ((r + VLEN - 1) / VLEN) {
        case 1: project_block(proj, ld, x, g, left, head_dim, 1); break;
#if HA_MAX_PROJS > VLEN
        case 2: project_block(proj, ld, x, g, left, head_dim, 2); break;
#endif
#if HA_MAX_PROJS > 2 * VLEN
        case 3: project_block(proj, ld, x, g, left, head_dim, 3); break;
        case 4: project_block(proj, ld, x, g, left, head_dim, 4); break;
#endif
        }
    }
}

/* The register block's multiply-adds with no memory traffic: what attend is compared with. */
static double f32_peak(int64_t iters)
{
    vf acc[MR][NRV], a = vset1(1e-30f), b = vset1(0.5f);
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < NRV; j++)
            acc[i][j] = vset1((float)(i * NRV + j)); /* distinct, or they would be merged */
    for (int64_t x = 0; x < iters; x++) {
        __asm__ volatile("" : "+" VREG(a), "+" VREG(b));
        for (int i = 0; i < MR; i++)
            for (int j = 0; j < NRV; j++)
                acc[i][j] = vfma(a, b, acc[i][j]);
    }
    vf sum = vzero();
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < NRV; j++)
            sum = vadd(sum, acc[i][j]);
    /* The sum must be used, or the loop would be removed. */
    volatile float sink = vhsum(sum);
    (void)sink;
    return 2.0 * MR * NRV * VLEN * (double)iters;
}
