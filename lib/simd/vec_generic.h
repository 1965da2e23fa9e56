/* SPDX-License-Identifier: Apache-2.0
 *
 * The vector vocabulary of body.h in the vector extensions of gcc and clang, for any processor with
 * registers of 16 bytes: 4 lanes, 3 x 16 register blocks, which 16 registers can hold.
 */
#include <stdint.h>
#include <string.h>

#include "half.h"
#include "kernels.h"

#define VLEN 4
#define MR 3
#define NRV 4 /* vectors of a panel row */
#define BR 48
#define BC 144
#define GR 96 /* tiles of the backward pass */
#define GC 144

#define VSTEP 64 /* units of a value panel at a time */

/* The asm constraint of a vector register, where one is known; VPIN(x): x is in one. */
#if defined(__SSE__)
#define VREG "x"
#elif defined(__aarch64__)
#define VREG "w"
#endif
#ifdef VREG
#define VPIN(x) __asm__("" : "+" VREG(x))
#else
#define VREG "m"
#define VPIN(x) ((void)0)
#endif

typedef float vf __attribute__((vector_size(16)));
typedef uint32_t vu __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));
typedef uint16_t vh __attribute__((vector_size(8)));

/* Lanes of a and b, which have the numbers 0 to 3 and 4 to 7. */
#ifdef __clang__
#define VSHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define VSHUFFLE(a, b, ...) __builtin_shuffle(a, b, (vi){__VA_ARGS__})
#endif

static inline vf vset1(float x) { return (vf){x, x, x, x}; }
static inline vf vzero(void) { return vset1(0); }

static inline vf vload(const float *p)
{
    vf x;
    memcpy(&x, p, sizeof x);
    return x;
}

static inline void vstore(float *p, vf x) { memcpy(p, &x, sizeof x); }
static inline vf vadd(vf a, vf b) { return a + b; }
static inline vf vsub(vf a, vf b) { return a - b; }
static inline vf vmul(vf a, vf b) { return a * b; }
static inline vf vfma(vf a, vf b, vf c) { return a * b + c; }
/* The empty assembly keeps gcc from doing the eight steps of a block for one accumulator after the
 * other, which leaves no register for what is multiplied. */
static inline vf vmadd(vf a, vf b, vf c)
{
    c = a * b + c;
    VPIN(c);
    return c;
}

/* x where the mask's bits are set, y elsewhere. */
static inline vf vselect(vi mask, vf x, vf y)
{
    return (vf)(((vi)x & mask) | ((vi)y & ~mask));
}

/* The second operand where either is NaN. Lane by lane: compilers see one instruction in it where
 * there is one. */
static inline vf vmax(vf a, vf b)
{
    for (int i = 0; i < VLEN; i++)
        a[i] = a[i] > b[i] ? a[i] : b[i];
    return a;
}

static inline vf vmin(vf a, vf b)
{
    for (int i = 0; i < VLEN; i++)
        a[i] = a[i] < b[i] ? a[i] : b[i];
    return a;
}

/* The lanes' bits shifted left by 23: makes a power of two of a biased exponent. */
static inline vf vshl23(vf x) { return (vf)((vu)x << 23); }

/* x in lanes below n, fill in the others. */
static inline vf vkeep(vf x, vf fill, int n)
{
    return vselect((vi){0, 1, 2, 3} < (vi){n, n, n, n}, x, fill);
}

/* The first n lanes of p, 0 <= n <= 4; no byte behind them is touched. */
static inline vf vload_n(const float *p, int n)
{
    vf x = vzero();
    memcpy(&x, p, (size_t)n * sizeof *p);
    return x;
}

static inline void vstore_n(float *p, vf x, int n)
{
    memcpy(p, &x, (size_t)n * sizeof *p);
}

static inline vu vload_halves(const uint16_t *p)
{
    vh x;
    memcpy(&x, p, sizeof x);
    return __builtin_convertvector(x, vu);
}

static inline vf vload_bf16(const uint16_t *p) { return (vf)(vload_halves(p) << 16); }

/* As ha_f16_to_f32. A subnormal number m 2^-24 is made as (2^-14 + m 2^-24) - 2^-14, a difference
 * of numbers that are normal in f32, so that it does not depend on how subnormal ones are taken. */
static inline vf vload_f16(const uint16_t *p)
{
    vu h = vload_halves(p), sign = (h & 0x8000) << 16, rest = (h & 0x7fff) << 13;
    vf small = (vf)(rest + (113u << 23)) - vset1(0x1p-14f);
    vf normal = (vf)(rest + (112u << 23));
    vf special = (vf)(rest | 0x7f800000 | ((vu)(rest > (0x7c00u << 13)) & 0x400000));
    vf x = vselect((vi)(rest < (0x400u << 13)), small, normal);
    x = vselect((vi)(rest >= (0x7c00u << 13)), special, x);
    return (vf)((vu)x | sign);
}

/* Round to nearest even; a NaN stays a (quiet) NaN. */
static inline void vstore_bf16(uint16_t *p, vf x)
{
    for (int i = 0; i < VLEN; i++)
        p[i] = ha_f32_to_bf16(x[i]);
}

static inline void vstore_f16(uint16_t *p, vf x)
{
    for (int i = 0; i < VLEN; i++)
        p[i] = ha_f32_to_f16(x[i]);
}

static inline float vfirst(vf x) { return x[0]; }

/* Bit i: whether lane i of x is above that of y; not where either is NaN. */
static inline unsigned vabove(vf x, vf y)
{
    vi bits = (x > y) & (vi){1, 2, 4, 8};
    return (unsigned)(bits[0] | bits[1] | bits[2] | bits[3]);
}

static inline float vhmax(vf x)
{
    vf y = vmax(x, VSHUFFLE(x, x, 2, 3, 0, 1));
    return y[0] > y[1] ? y[0] : y[1];
}

static inline float vhsum(vf x)
{
    vf y = x + VSHUFFLE(x, x, 2, 3, 0, 1);
    return y[0] + y[1];
}

static inline void vtranspose(vf r[VLEN])
{
    vf a = VSHUFFLE(r[0], r[1], 0, 4, 1, 5), b = VSHUFFLE(r[0], r[1], 2, 6, 3, 7);
    vf c = VSHUFFLE(r[2], r[3], 0, 4, 1, 5), d = VSHUFFLE(r[2], r[3], 2, 6, 3, 7);
    r[0] = VSHUFFLE(a, c, 0, 1, 4, 5);
    r[1] = VSHUFFLE(a, c, 2, 3, 6, 7);
    r[2] = VSHUFFLE(b, d, 0, 1, 4, 5);
    r[3] = VSHUFFLE(b, d, 2, 3, 6, 7);
}

/* A query's code. */
typedef struct vcode {
    int16_t number[HA_CODE];
} vcode;

static inline vcode vcode_load(const int8_t *q)
{
    vcode code;
    for (int i = 0; i < HA_CODE; i++)
        code.number[i] = q[i];
    return code;
}

/* Sixteen sums of 16 bits. */
typedef struct vcode_sums {
    int16_t sum[HA_CODE_KEYS];
} vcode_sums;

static inline vcode_sums vcode_sums_load(const int16_t *p)
{
    vcode_sums s;
    memcpy(s.sum, p, sizeof s.sum);
    return s;
}

static inline vcode_sums vcode_set1(int16_t x)
{
    vcode_sums s;
    for (int i = 0; i < HA_CODE_KEYS; i++)
        s.sum[i] = x;
    return s;
}

static inline vcode_sums vcode_adds(vcode_sums a, vcode_sums b)
{
    for (int i = 0; i < HA_CODE_KEYS; i++) {
        int sum = a.sum[i] + b.sum[i];
        a.sum[i] = (int16_t)(sum > INT16_MAX ? INT16_MAX : sum < INT16_MIN ? INT16_MIN : sum);
    }
    return a;
}

static inline void vcode_sums_store(int16_t *p, vcode_sums x)
{
    memcpy(p, x.sum, sizeof x.sum);
}

static inline vcode_sums vcode_subs(vcode_sums a, vcode_sums b)
{
    for (int i = 0; i < HA_CODE_KEYS; i++) {
        int sum = a.sum[i] - b.sum[i];
        a.sum[i] = (int16_t)(sum > INT16_MAX ? INT16_MAX : sum < INT16_MIN ? INT16_MIN : sum);
    }
    return a;
}

/* Sixteen numbers as integers, rounded towards zero. */
static inline vcode_sums vcode_truncate(const vf *x)
{
    vcode_sums s;
    for (int i = 0; i < HA_CODE_KEYS; i++)
        s.sum[i] = (int16_t)x[i / VLEN][i % VLEN];
    return s;
}

/* Bit 2 i: whether a_i > b_i. */
static inline uint32_t vcode_above(vcode_sums a, vcode_sums b)
{
    uint32_t above = 0;
    for (int i = 0; i < HA_CODE_KEYS; i++)
        above |= (uint32_t)(a.sum[i] > b.sum[i]) << 2 * i;
    return above;
}

/* The products of a block's keys with a code. */
static inline vcode_sums vcode_sum(const uint8_t *block, const vcode *q)
{
    vcode_sums s = {{0}};
    for (int i = 0; i < HA_CODE; i++)
        for (int x = 0; x < HA_CODE_KEYS; x++)
            s.sum[x] = (int16_t)(s.sum[x] + q->number[i] *
                                                block[i / 2 * 2 * HA_CODE_KEYS + 2 * x + i % 2]);
    return s;
}
