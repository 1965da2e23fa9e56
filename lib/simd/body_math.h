/* SPDX-License-Identifier: Apache-2.0
 *
 * 2^x, the register block of every product and the arithmetic peak, in the vocabulary of a vec_*.h.
 */

/* Loops over the depth advance by eight steps at a time, whose addresses are constants: the two
 * additions that every step would need otherwise are a tenth of its instructions. */
#define STEPS 8
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

/* The steps of vexp2_neg that a level may have instructions for. x is split into an integer i and f
 * in [-1/2, 1/2]: subtracting from 1.5 * 2^23 + 127 rounds to i and leaves 127 - i in the low bits,
 * which become the exponent. */
#ifndef VSPLIT
static inline __attribute__((always_inline)) void vsplit(vf *x, vf *scale, int n)
{
    const vf magic = vset1(0x1.8p23f + 127);
    for (int i = 0; i < n; i++) {
        x[i] = vmin(vset1(127), x[i]);
        scale[i] = vsub(magic, x[i]);
    }
    for (int i = 0; i < n; i++)
        x[i] = vadd(x[i], vsub(scale[i], magic));
}

/* p = 2^-f, times 2^-i. */
static inline vf vscale(vf p, vf f, vf scale)
{
    (void)f;
    return vmul(p, vshl23(scale));
}
#endif

/* x = 2^-x for n vectors, n a constant; x >= 0, about 1 ulp; above 126.5 zero, NaN for NaN. The
 * sign lets a caller subtract from a maximum, whose instruction also loads.
 *
 * The polynomial interpolates 2^-f at Chebyshev nodes. The steps go over all n vectors in turn: one
 * chain alone is bound by latency, for a core's scheduler holds too few of its long iterations. */
static inline __attribute__((always_inline)) void vexp2_neg(vf *x, int n)
{
    static const float c[] = {
        0x1.4440000000000p-13f,  -0x1.5f48c00000000p-10f, 0x1.3b2a1c0000000p-7f,
        -0x1.c6aecc0000000p-5f,  0x1.ebfbe00000000p-3f,   -0x1.62e4300000000p-1f,
        1,
    };
    vf scale[4], p[4];
    vsplit(x, scale, n);
    for (int i = 0; i < n; i++)
        p[i] = vfma(vset1(c[0]), x[i], vset1(c[1]));
    for (int k = 2; k < 7; k++)
        for (int i = 0; i < n; i++)
            p[i] = vfma(p[i], x[i], vset1(c[k]));
    for (int i = 0; i < n; i++)
        x[i] = vscale(p[i], x[i], scale[i]);
}

static void exp2_array(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i += VLEN) {
        int left = n - i < VLEN ? (int)(n - i) : VLEN;
        vf v = vsub(vzero(), vload_n(x + i, left));
        vexp2_neg(&v, 1);
        vstore_n(x + i, v, left);
    }
}

/* One step of a register block, mr rows and nv vectors: acc_ij = dot(a[i][x], b[j], acc_ij). The
 * shorter side stays in registers while the other one passes by. */
static inline __attribute__((always_inline)) void block_step(vf (*acc)[NRV], int mr, int nv,
                                                             const float *const *a, int x,
                                                             const float *b, vf (*dot)(vf, vf, vf))
{
    vf held[MR * NRV];
    if (mr < nv) {
        for (int i = 0; i < mr; i++)
            held[i] = vset1(a[i][x]);
        for (int j = 0; j < nv; j++) {
            vf bv = vload(b + j * VLEN);
            for (int i = 0; i < mr; i++)
                acc[i][j] = dot(held[i], bv, acc[i][j]);
        }
    } else {
        for (int j = 0; j < nv; j++)
            held[j] = vload(b + j * VLEN);
        for (int i = 0; i < mr; i++) {
            vf av = vset1(a[i][x]);
            for (int j = 0; j < nv; j++)
                acc[i][j] = dot(av, held[j], acc[i][j]);
        }
    }
}

/* Keeps gcc from making a pointer of each address that a loop takes from p, and from loading from p
 * ahead of time. */
#define OPAQUE(p) __asm__ volatile("" : "+r"(p))

/* The register block of every product: acc_ij += sum_x a[i][x] * b[x][j]. dot is vmadd, or a
 * product of units; rest says whether depth may be no multiple of STEPS. mr, nv, rest and dot are
 * constants, and so is ldb where speed matters. */
static inline __attribute__((always_inline)) void block(vf (*acc)[NRV], int mr, int nv,
                                                        const float *a, int64_t lda, const float *b,
                                                        int64_t ldb, int64_t depth, int rest,
                                                        vf (*dot)(vf, vf, vf))
{
    const float *row[MR * NRV];
    for (int i = 0; i < mr; i++)
        row[i] = a + i * lda;
    for (; depth >= STEPS; depth -= STEPS, b += STEPS * ldb) {
        for (int i = 0; i < mr; i++)
            OPAQUE(row[i]);
        OPAQUE(b);
        UNROLL
        for (int x = 0; x < STEPS; x++)
            block_step(acc, mr, nv, row, x, b + x * ldb, dot);
        for (int i = 0; i < mr; i++)
            row[i] += STEPS;
    }
    if (!rest)
        return;
#pragma GCC unroll 1
    for (; depth > 0; depth--, b += ldb) {
        block_step(acc, mr, nv, row, 0, b, dot);
        for (int i = 0; i < mr; i++)
            row[i]++;
    }
}

/* The same with the left operand transposed: acc_ij += sum_x a[x][i] * b[x][j]. lda is a constant
 * too: one pointer then reaches eight steps. */
static inline __attribute__((always_inline)) void block_t(vf (*acc)[NRV], int mr, int nv,
                                                          const float *a, int64_t lda,
                                                          const float *b, int64_t ldb,
                                                          int64_t depth, int rest,
                                                          vf (*dot)(vf, vf, vf))
{
    const float *row[MR * NRV];
    for (; depth >= STEPS; depth -= STEPS, a += STEPS * lda, b += STEPS * ldb) {
        OPAQUE(a);
        OPAQUE(b);
        for (int i = 0; i < mr; i++)
            row[i] = a + i;
        UNROLL
        for (int x = 0; x < STEPS; x++)
            block_step(acc, mr, nv, row, x * (int)lda, b + x * ldb, dot);
    }
    if (!rest)
        return;
#pragma GCC unroll 1
    for (; depth > 0; depth--, a += lda, b += ldb) {
        for (int i = 0; i < mr; i++)
            row[i] = a + i;
        block_step(acc, mr, nv, row, 0, b, dot);
    }
}

/* Calls f with its last argument constant, so that the register block is unrolled. */
#if NRV == 2
#define BY_WIDTH(f, nv, ...)                    \
    switch (nv) {                               \
    case 1: f(__VA_ARGS__, 1); break;           \
    default: f(__VA_ARGS__, 2); break;          \
    }
#else
#define BY_WIDTH(f, nv, ...)                    \
    switch (nv) {                               \
    case 1: f(__VA_ARGS__, 1); break;           \
    case 2: f(__VA_ARGS__, 2); break;           \
    case 3: f(__VA_ARGS__, 3); break;           \
    default: f(__VA_ARGS__, 4); break;          \
    }
#endif

/* A block asks the second-level cache for its share of the panel that is needed next: hardware
 * prefetchers stop at a page's end, and a panel is about a page. In lines of 16 floats. */
static inline int64_t prefetch_share(int64_t floats, int blocks)
{
    return (floats / 16 + blocks - 1) / blocks;
}

static inline const float *prefetch(const float *p, int64_t lines)
{
    for (; lines > 0; lines--, p += 16)
        __builtin_prefetch(p, 0, 2);
    return p;
}

/* What is left of a tile's rows ahead; each block asks for `share` of them. */
typedef struct ahead_rows {
    const void *const *row;
    int64_t left, share, bytes;
} ahead_rows;

static inline void prefetch_rows(ahead_rows *ahead)
{
    int64_t n = ahead->share < ahead->left ? ahead->share : ahead->left;
    ahead->left -= n;
    for (; n > 0; n--) {
        const char *p = *ahead->row++;
        for (int64_t b = 0; b < ahead->bytes; b += 64)
            __builtin_prefetch(p + b, 0, 2);
    }
}

/* A register block's multiply-adds with no memory traffic: what attend is compared with. dot does
 * `operations` per lane. Every loop over acc is unrolled, or gcc would store it in each step on
 * some processors. */
static inline __attribute__((always_inline)) double peak(int64_t iters, int mr, double operations,
                                                         vf (*dot)(vf, vf, vf))
{
    vf acc[MR * NRV][NRV], a = vset1(1e-30f), b = vset1(0.5f), sum = vzero();
    UNROLL
    for (int i = 0; i < mr; i++)
        UNROLL
        for (int j = 0; j < NRV; j++)
            acc[i][j] = vset1((float)(i * NRV + j)); /* distinct, or they would be merged */
    for (int64_t x = 0; x < iters; x++) {
        __asm__ volatile("" : "+" VREG(a), "+" VREG(b));
        UNROLL
        for (int i = 0; i < mr; i++)
            UNROLL
            for (int j = 0; j < NRV; j++)
                acc[i][j] = dot(a, b, acc[i][j]);
    }
    UNROLL
    for (int i = 0; i < mr; i++)
        UNROLL
        for (int j = 0; j < NRV; j++)
            sum = vadd(sum, acc[i][j]);
    volatile float sink = vhsum(sum); /* used, or the loop would be removed */
    (void)sink;
    return operations * mr * NRV * VLEN * (double)iters;
}

static double f32_peak(int64_t iters)
{
    return peak(iters, MR, 2, vmadd);
}
