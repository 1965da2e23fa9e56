/* SPDX-License-Identifier: Apache-2.0
 *
 * The micro-kernel contract. Algorithms in lib/cpu call these tables only; lib/simd fills them, one
 * table per instruction-set level. Every function has a C reference in lib/simd/ref.c and a
 * checkkern test.
 *
 * A "unit" is 32 bits of a packed operand: one f32, or, in bf16 arithmetic, two neighbouring bf16
 * values of the depth. So the packed shapes are the same in both arithmetics, with
 * depth = ha_units(arith, head_dim).
 *
 * Operands are packed, and padded with zeros, in panels. A panel of H rows (or columns) is units
 * [depth / ROW_UNITS][H][ROW_UNITS], where ROW_UNITS = arith->row_units is 1, or 2 for matrix
 * instructions, which take two units of a row at once. With NR = arith->nr:
 *   query tile  panels of ROW_UNITS rows, rows up to a multiple of MR; depth ha_ldq()
 *   keys        panels of NR keys; depth ha_units() of head_dim
 *   values      panels of ha_panel_width() <= NR columns; depth: the key units of the whole pack;
 *               the panel that starts at column c lies c * depth units into the pack
 */
#ifndef HA_KERNELS_H
#define HA_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "ha_limits.h"
#include "hyperattn.h"
#include "levels.h"

/* Rows of one tensor: row i is base + (index ? index[i] : first + i) * stride elements. */
typedef struct ha_rows {
    const void *base;
    int64_t stride;
    const uint32_t *index; /* NULL: consecutive rows */
    int64_t first;
    hyperattn_dtype dtype;
} ha_rows;

/* Row i. */
static inline const void *ha_row_at(const ha_rows *rows, int64_t i)
{
    int64_t row = rows->index ? (int64_t)rows->index[i] : rows->first + i;
    return (const char *)rows->base + row * rows->stride * (rows->dtype == HYPERATTN_F32 ? 4 : 2);
}

/* One step of online softmax: a query tile against a chunk of packed keys.
 * For row i < rows and key j < keys, in the log2 domain,
 *     s_ij = min(scale * q_i.k_j + logw_j, cap_i), and -inf where j >= limit_i,
 * and the running state (m, l, acc) becomes that of the keys seen so far:
 *     m = max s,  l = sum 2^(s - m),  acc = sum 2^(s - m) v_j. */
typedef struct ha_tile {
    const void *q;  /* query tile */
    const void *k;  /* packed keys of this chunk */
    const void *v;  /* the whole pack of values */
    int64_t vpanel; /* key units of the whole pack */
    int64_t vfirst; /* key unit of the pack at which this chunk starts */
    const float *logw;    /* log2 weights, [keys up to a multiple of NR]; -inf where padded */
    const int32_t *limit; /* not decreasing, [rows up to a multiple of MR]; or NULL */
    const float *cap;     /* [rows up to a multiple of MR]; or NULL */
    int rows, keys;       /* rows <= br, keys <= bc */
    int head_dim, head_dim_v; /* head_dim_v 0: only m and l are wanted */
    float scale;          /* softmax_scale * log2(e) */
    int careful;          /* the values hold an Inf or NaN: masked ones must not leak */
    float *m, *l;         /* [rows up to a multiple of MR]; start at -inf and 0 */
    float *acc;           /* [rows up to a multiple of MR][ldacc]; starts at 0 */
    int64_t ldacc;        /* >= ha_padded_columns() */
    float *scratch;       /* ha_tile_scratch() floats, 64-byte aligned */
    /* nahead addresses of ahead_bytes each that the caller needs next and that lie anywhere: attend
     * may ask the caches for them in passing. */
    const void *const *ahead;
    int64_t nahead, ahead_bytes;
} ha_tile;

/* One tile of the backward pass: query rows against a chunk of packed keys. With s_ij as in
 * ha_tile, for i < rows and j < keys,
 *     p_ij = 2^min(s_ij - lse_i, 0)     ds_ij = p_ij (dout_i.v_j - delta_i)
 * (no weight exceeds its row's sum, but rounding of huge scores may say so), both 0 where
 * j >= limit_i, whatever the operands hold; and
 *     dv_j += sum_i p_ij dout_i   dk_j += sum_i ds_ij q_i   dq_i += sum_j ds_ij k_j
 * Where the cap holds (s_ij >= cap_i before it is applied), ds_ij is 0 and dout_i.v_j - delta_i is
 * added to capped_i instead. Each operand of a product is packed for its place there: rows by which
 * it multiplies as a query tile or key panels, rows that it sums as a column pack, like values. */
typedef struct ha_grad_tile {
    const void *q, *dout;         /* query tiles of the rows */
    const void *q_sum, *dout_sum; /* column packs that hold the same rows: */
    int64_t rpanel, rfirst;       /*   row units of the whole pack, and where the tile starts */
    const void *k, *v;            /* key panels of this chunk, of depths head_dim and head_dim_v */
    const void *k_sum;            /* column pack that holds the same keys: */
    int64_t kpanel, kfirst;       /*   key units of the whole pack, and where the chunk starts */
    const float *logw;            /* log2 weights, [keys up to a multiple of NR]; -inf: padded */
    const int32_t *limit;         /* not decreasing, [rows up to a multiple of MR]; or NULL */
    const float *cap;             /* [rows up to a multiple of MR]; or NULL */
    const float *lse, *delta;     /* the same; lse as log2. Padded: inf and 0 */
    int rows, keys;               /* rows <= gr, keys <= gc */
    int head_dim, head_dim_v;
    float scale;                  /* softmax_scale * log2(e) */
    float *dq, *dk, *dv;          /* [rows][lddq], [keys][lddk], [keys][lddv]: no row behind these
                                   * is touched */
    int64_t lddq, lddk, lddv;     /* >= ha_padded_columns() of head_dim, head_dim, head_dim_v */
    float *capped;                /* [rows up to a multiple of MR], with cap */
    float *scratch;               /* grad_scratch floats, 64-byte aligned */
} ha_grad_tile;

/* Most rows of one step of attend_in_place. */
#define HA_IN_PLACE_ROWS 16

/* A step of online softmax for few rows and keys that are used once, which lie where they are: no
 * packing, and each key and value is read from memory once. State and sums are those of ha_tile:
 * for row i < rows and key j < nkeys,
 *     s_ij = scale * q_i.k_j, and -inf where j >= limit_i,
 * and no row's result depends on a key or value that it does not see, be it NaN. */
typedef struct ha_in_place {
    const float *q; /* [rows][ldq], zero behind head_dim, as f32.load_q makes rows of any dtype */
    int64_t ldq;    /* >= ha_ldq() of f32 and head_dim */
    ha_rows k, v;   /* of any dtype; consecutive rows are the fast case */
    const int32_t *limit; /* not decreasing, [rows]; or NULL */
    int rows, nkeys;      /* rows <= HA_IN_PLACE_ROWS */
    int head_dim, head_dim_v;
    float scale;          /* softmax_scale * log2(e) */
    float *m, *l;         /* [rows]; start at -inf and 0 */
    float *acc;           /* [rows][ldacc]; starts at 0 */
    int64_t ldacc;        /* >= ha_padded_columns() of f32 and head_dim_v */
} ha_in_place;

/* Plain scores of 1, 2 or 4 rows against keys where they lie: s[j * rows + i] = scale q_i.k_j. */
typedef struct ha_scores {
    float *s;       /* [nkeys][rows], with room up to a multiple of HA_SCORES_PAD floats */
    const float *q; /* [rows][ldq], zero behind the columns, as f32.load_q makes rows of any dtype */
    int64_t ldq;    /* >= ha_ldq() of f32 and columns */
    ha_rows k;      /* of any dtype */
    int64_t nkeys, columns;
    int rows;
    float scale;
} ha_scores;

#define HA_SCORES_PAD 16

/* Codes of keys against those of one query. A key has HA_CODE numbers 0..63, a query as many of
 * -31..31, so that their product, sum_i q_i code_i, fits 16 bits. Keys lie in blocks, each
 * [HA_CODE / 2][HA_CODE_KEYS][2]. */
#define HA_CODE 16
#define HA_CODE_KEYS 16

#define HA_CODE_LARGEST 31 /* of a query's numbers; a key's lie this far from HA_CODE_MIDDLE */
#define HA_CODE_MIDDLE 32

/* Some rows of queries against codes: those of a few cells pass by all rows in turn. A key is a hit
 * of a row where
 *     scale * score of its cell + unit * sum_i q_i (code_i - HA_CODE_MIDDLE) >= least
 * or by a unit less. Cells come in sets of HA_CODE_KEYS. Each has a box, which holds the codes of
 * its keys: code_i lies within half_i of middle_i. Cells whose box is too far away are passed
 * over. */
typedef struct ha_scan {
    const uint8_t *codes; /* [nsets][HA_CODE_KEYS] cells of `blocks` blocks */
    const uint8_t *boxes; /* [nsets] pairs of blocks: middles, halves, 0..63; a cell is their key */
    int64_t nsets;
    int blocks;           /* of a cell */
    int rows;             /* at most HA_SCAN_ROWS */
    const int8_t *q;      /* [rows][HA_CODE] */
    const float *score;   /* [rows][nsets][HA_CODE_KEYS]; NaN: nothing there is a hit */
    const float *least;   /* [rows]; NaN: the row hits nothing */
    const float *unit;    /* [rows], > 0 */
    float scale;
    uint32_t *hit;        /* [rows][room]: the first hits of each row, ascending */
    int64_t room;
    int64_t *found;       /* [rows]: how many those are */
} ha_scan;

#define HA_SCAN_ROWS 24

#define HA_CODE_BLOCK (HA_CODE * HA_CODE_KEYS) /* bytes */

/* One less than what sum_i q_i code_i is where all codes are HA_CODE_MIDDLE. */
static inline int ha_scan_base(const int8_t *q)
{
    int sum = 0;
    for (int i = 0; i < HA_CODE; i++)
        sum += q[i];
    return HA_CODE_MIDDLE * sum - 1;
}

/* Most that sum_i q_i (code_i - HA_CODE_MIDDLE) can be. */
#define HA_SCAN_MOST (HA_CODE_LARGEST * HA_CODE_LARGEST * HA_CODE)

/* One arithmetic: the type in which products are formed. State is f32 in each.
 *
 * load_q, pack_k and pack_v take rows of any dtype, whatever that of the tensors is. Rows of f32,
 * and of f16 through f32, are rounded to bf16: to nearest even, past the largest number to Inf; a
 * NaN stays one. Rows of bf16 are copied bit by bit. Rounding may make zeros of subnormal numbers
 * where the thread's mode flushes them; bf16 products take them as zeros in every mode. */
typedef struct ha_arith {
    int mr, nr; /* register block: rows and lanes of a panel */
    int lanes;  /* of one vector; nr is a multiple */
    int br, bc; /* most rows and keys of one tile; multiples of mr and nr */
    int gr, gc; /* the same of one backward tile */
    int64_t grad_scratch; /* floats of scratch that backward needs */
    int pair;   /* values per unit: 1 (f32) or 2 (bf16) */
    int row_units; /* units of a row that lie together in a panel: 1 or 2 */
    /* rows x head_dim -> query tile, zero-filled */
    void (*load_q)(void *dst, const ha_rows *src, int64_t rows, int64_t head_dim);
    /* nkeys x head_dim -> key panels */
    void (*pack_k)(void *dst, const ha_rows *src, int64_t nkeys, int64_t head_dim);
    /* nkeys x columns -> column panels of the pack dst with vpanel key units, from key unit vfirst
     * on. Keys up to a multiple of NR are zeroed. Returns 1 if every value is finite, as packed:
     * rounding can make an Inf. */
    int (*pack_v)(void *dst, int64_t vpanel, int64_t vfirst, const ha_rows *src, int64_t nkeys,
                  int64_t columns);
    void (*attend)(const ha_tile *tile);
    void (*backward)(const ha_grad_tile *tile);
} ha_arith;

/* Destination rows, as ha_rows. */
typedef struct ha_out_rows {
    void *base;
    int64_t stride;
    const uint32_t *index;
    int64_t first;
    hyperattn_dtype dtype;
} ha_out_rows;

typedef struct ha_kernels {
    const char *name;
    ha_arith f32;
    const ha_arith *bf16; /* NULL: bf16 tensors are converted and go through f32 */
    void (*attend_in_place)(const ha_in_place *step);
    /* [rows][r] projections proj_ij = x_i.g_j of rows onto r directions, which f32.pack_k packed;
     * ld >= r rounded up to lanes. x holds rows up to a multiple of MR, ldx apart. */
    void (*project)(float *proj, int64_t ld, const float *x, int64_t ldx, const float *g,
                    int64_t rows, int64_t head_dim, int64_t r);
    /* Of projections, r <= HA_MAX_PROJS columns of rows ld apart that have whole vectors:
     * sum[j] = sum_i x_ij, f32 over some tens of rows and double over all. Returns 1 if all is
     * finite, sums of such parts too; else the sums mean nothing. */
    int (*column_sums)(double *sum, const float *x, int64_t ld, int64_t rows, int r);
    /* Bit j of bits[i]: whether x_ij > base[j]; not where it is NaN. base: [HA_MAX_PROJS]. */
    void (*above_bits)(uint16_t *bits, const float *x, int64_t ld, const float *base, int64_t rows,
                       int r);
    /* out row i = acc row i * inv[i], rounded to nearest even */
    void (*store_rows)(const ha_out_rows *dst, const float *acc, int64_t ldacc, const float *inv,
                       int64_t rows, int64_t columns);
    /* dot[i] = a_i.b_i over n numbers of each row */
    void (*dot_rows)(float *dot, const ha_rows *a, const ha_rows *b, int64_t rows, int64_t n);
    /* Runs iters steps of independent multiply-adds and returns the operations done: the peak
     * that bench/ compares with. bf16_peak is NULL where bf16 is NULL. */
    double (*f32_peak)(int64_t iters);
    double (*bf16_peak)(int64_t iters);
    /* x[i] = 2^x[i]: the exponential of attend, on its own */
    void (*exp2)(float *x, int64_t n);
    /* log2 of the sum over j < n of 2^(w_j + scale x_j); w_j may be -Inf */
    float (*log_sum_exp)(const float *w, const float *x, float scale, int64_t n);
    void (*score_rows)(const ha_scores *scores);
    void (*scan_codes)(const ha_scan *scan);
    /* sum[c] = sum_j w[j * ldw] x_jc over nrows rows of any dtype; sum has whole vectors */
    void (*sum_rows)(float *sum, const ha_rows *x, const float *w, int64_t ldw, int64_t nrows,
                     int64_t columns);
} ha_kernels;

static inline int64_t ha_round_up(int64_t x, int64_t to)
{
    return (x + to - 1) / to * to;
}

/* Units of a row of n values, up to a multiple of row_units. */
static inline int64_t ha_units(const ha_arith *a, int64_t n)
{
    return ha_round_up(n, a->pair * a->row_units) / a->pair;
}

/* Units between the rows of a query tile. */
static inline int64_t ha_ldq(const ha_arith *a, int64_t head_dim)
{
    return ha_round_up(ha_units(a, head_dim), a->lanes);
}

/* Row width of accumulators: full panels, the last one cut to whole vectors. */
static inline int64_t ha_padded_columns(const ha_arith *a, int64_t columns)
{
    return ha_round_up(columns, a->lanes);
}

/* The column panels of values: the first ones, up to column `narrow`, are `wide` columns each, the
 * others one vector less. Sharing the vectors out evenly spares a last panel of one or two, whose
 * few accumulators would wait for each other. */
typedef struct ha_panels {
    int64_t wide, narrow, lanes;
} ha_panels;

static inline ha_panels ha_column_panels(int64_t columns, int64_t lanes, int64_t nr)
{
    int64_t vectors = columns > 0 ? (columns + lanes - 1) / lanes : 1, most = nr / lanes;
    int64_t panels = (vectors + most - 1) / most;
    int64_t wide = (vectors + panels - 1) / panels;
    return (ha_panels){wide * lanes, (vectors - panels * (wide - 1)) * wide * lanes, lanes};
}

/* Width of the panel that starts at column c. */
static inline int64_t ha_panel_width(const ha_panels *panels, int64_t c)
{
    return c < panels->narrow ? panels->wide : panels->wide - panels->lanes;
}

/* Bytes of packed keys and values, nkeys counted up to a multiple of NR. */
static inline size_t ha_k_bytes(const ha_arith *a, int64_t nkeys, int64_t head_dim)
{
    return 4 * (size_t)ha_round_up(nkeys, a->nr) * (size_t)ha_units(a, head_dim);
}

static inline size_t ha_v_bytes(const ha_arith *a, int64_t nkeys, int64_t columns)
{
    size_t units = (size_t)(ha_round_up(nkeys, a->nr) / a->pair);
    return 4 * units * (size_t)ha_padded_columns(a, columns);
}

/* Floats of scratch that attend needs. */
static inline int64_t ha_tile_scratch(const ha_arith *a)
{
    return (int64_t)a->br * a->bc;
}

/* The table of a level, or NULL if this build or this machine lacks it. */
const ha_kernels *ha_kernels_at(ha_level level);

/* The best level at or below the HYPERATTN_CPU ceiling; *reason says why a better one was not
 * taken ("" if none is better). */
const ha_kernels *ha_kernels_best(const char **reason);

/* One table for each level, defined in lib/simd/<level>.c. */
#define HA_LEVEL_TABLE(NAME, name, needs) extern const ha_kernels ha_kernels_##name;
HA_LEVEL_LIST(HA_LEVEL_TABLE)
#undef HA_LEVEL_TABLE

#endif
