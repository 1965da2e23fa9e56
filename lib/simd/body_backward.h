/* SPDX-License-Identifier: Apache-2.0
 *
 * One tile of the backward pass, ha_arith.backward. Two buffers of the scratch, X and Y, hold a
 * number for each row and key:
 *     1. X = scores and Y = dout v^T, products of a query tile and key panels;
 *     2. X becomes P = 2^min(X - lse, 0) and Y becomes dS = P (Y - delta), both zero where a row
 *        does not see a key;
 *     3. dv += P^T dout and dk += dS^T q, products of which the left operand is read transposed;
 *     4. dq += dS k, as attend's product with the values.
 * Included once per arithmetic, after body_attend.h and with its definitions, and besides
 *     GR, GC                    ha_arith.gr and gc
 *     BLOCK_T(acc, nv, ...)     the register block with a transposed left operand, as block_t
 *     STORE_GRAD(g, r, j, p, ds, n)  stores n vectors of P and dS, from key j on, of each of the
 *                               PAIR * ROW_UNITS rows from r on, as operands of the products
 */

/* Floats between the rows of X and Y: an odd number of cache lines, so that a column lies in many
 * sets of the first-level cache; and room for a register block of keys behind the last one. */
#define LDX (GC + 16)

/* Rows that see the same whole vectors of keys, as far as the tile is concerned. */
#if MR % (PAIR * ROW_UNITS) == 0
#define GROUP MR
#else
#define GROUP (2 * MR)
#endif

/* X and Y, and in bf16 P and dS as transposed operands, which are half as large. */
enum { FN(grad_scratch) = (PAIR == 1 ? 2 : 3) * GR * LDX };

typedef struct FN(grad) {
    const ha_grad_tile *t;
    float *x, *y;
    float *pt, *dst; /* P and dS as transposed operands */
    float *dsr;      /* dS as a query tile whose ldq is LDX */
} FN(grad);

/* ---- what is seen ---------------------------------------------------------------------------- */

/* Keys that row i sees. */
static inline int FN(grad_keys)(const ha_grad_tile *t, int i)
{
    int keys = t->limit ? t->limit[i] : t->keys;
    return keys < 0 ? 0 : keys < t->keys ? keys : t->keys;
}

/* Keys that the group of rows from r on needs, as whole vectors. */
static inline int FN(grad_group_keys)(const ha_grad_tile *t, int r)
{
    int last = r + GROUP < t->rows ? r + GROUP - 1 : t->rows - 1;
    return (FN(grad_keys)(t, last) + VLEN - 1) / VLEN * VLEN;
}

/* ---- 1: X and Y ------------------------------------------------------------------------------ */

/* out_ij = scale * a_i.b_j + w_j, a being a query tile and b key panels. Each block asks the caches
 * for its share of what lies ahead, the query tile of the product after this one. */
typedef struct FN(grad_product) {
    float *out;
    const float *a, *b;
    int dim;
    float scale;
    const float *w;
    const float *ahead;
    int64_t share;
} FN(grad_product);

static inline __attribute__((always_inline)) void FN(grad_product_block)(
    float *out, const float *a, int64_t lda, const float *b, int64_t depth, int rest,
    const float *w, float scale, int nv)
{
    vf acc[MR][NRV];
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < nv; j++)
            acc[i][j] = vzero();
    BLOCK(acc, nv, a, lda, b, NR, depth, rest);
    OPAQUE(w); /* not loaded before the product, which needs all registers */
    for (int j = 0; j < nv; j++)
        for (int i = 0; i < MR; i++)
            vstore(out + i * LDX + j * VLEN,
                   vfma(acc[i][j], vset1(scale), vload(w + j * VLEN)));
}

/* The panel from key c on, of which some rows do not see every key. */
static __attribute__((noinline)) void FN(grad_product_some)(const ha_grad_tile *t,
                                                            const FN(grad_product) *p, int c)
{
    int64_t depth = ha_round_up(p->dim, PAIR * ROW_UNITS) / PAIR, lda = ha_round_up(depth, VLEN);
    const float *b = p->b + c * depth;
    for (int r = 0; r < t->rows; r += MR) {
        int left = FN(grad_group_keys)(t, r / GROUP * GROUP) - c;
        if (left <= 0)
            continue;
        int nv = left < NR ? left / VLEN : NRV;
        BY_WIDTH(FN(grad_product_block), nv, p->out + r * LDX + c, p->a + r * lda, lda, b, depth,
                 1, p->w + c, p->scale)
    }
}

/* The panel from key c on, which all rows see. */
static inline __attribute__((always_inline)) void FN(grad_product_all)(const ha_grad_tile *t,
                                                                       FN(grad_product) *p, int c,
                                                                       int rest)
{
    int64_t depth = ha_round_up(p->dim, PAIR * ROW_UNITS) / PAIR, lda = ha_round_up(depth, VLEN);
    const float *a = p->a, *b = p->b + c * depth, *w = p->w + c;
    const float scale = p->scale;
    float *out = p->out + c;
    const float *ahead = p->ahead;
    const int64_t share = p->share;
    for (int rows = t->rows; rows > 0; rows -= MR, a += MR * lda, out += MR * LDX) {
        ahead = prefetch(ahead, share);
        FN(grad_product_block)(out, a, lda, b, depth, rest, w, scale, NRV);
    }
    p->ahead = ahead;
}

/* Apart, as the register block needs all registers. */
static __attribute__((noinline)) void FN(grad_product_even)(const ha_grad_tile *t,
                                                            FN(grad_product) *p, int c)
{
    FN(grad_product_all)(t, p, c, 0);
}

static __attribute__((noinline)) void FN(grad_product_odd)(const ha_grad_tile *t,
                                                           FN(grad_product) *p, int c)
{
    FN(grad_product_all)(t, p, c, 1);
}

/* next: a query tile of next_dim columns. */
static void FN(grad_products)(const ha_grad_tile *t, FN(grad_product) *p, const float *next,
                              int next_dim)
{
    int blocks = (t->rows + MR - 1) / MR * ((t->keys + NR - 1) / NR);
    p->ahead = next;
    p->share = prefetch_share((int64_t)t->rows * next_dim / PAIR, blocks);
    int seen = FN(grad_keys)(t, 0); /* limits do not decrease: the first row sees least */
    for (int c = 0; c < t->keys; c += NR)
        if (c + NR > seen)
            FN(grad_product_some)(t, p, c);
        else if (p->dim % (STEPS * PAIR) == 0)
            FN(grad_product_even)(t, p, c);
        else
            FN(grad_product_odd)(t, p, c);
}

/* ---- 2: P and dS ----------------------------------------------------------------------------- */

/* n vectors of PAIR * ROW_UNITS rows. masked: those rows may not see all of the keys. */
static inline __attribute__((always_inline)) void FN(grad_weights)(const FN(grad) *g, int r, int j,
                                                                   int n, int masked)
{
    const ha_grad_tile *t = g->t;
    vf p[4], ds[4];
    for (int i = 0; i < PAIR * ROW_UNITS; i++) {
        vf lse = vset1(t->lse[masked && r + i >= t->rows ? 0 : r + i]);
        for (int x = 0; x < n; x++) /* x >= 0 whatever rounding did; NaN stays */
            p[i * n + x] = vsub(lse, vmin(lse, vload(g->x + (r + i) * LDX + j + x * VLEN)));
    }
    vexp2_neg(p, PAIR * ROW_UNITS * n);
    for (int i = 0; i < PAIR * ROW_UNITS; i++) {
        vf delta = vset1(t->delta[masked && r + i >= t->rows ? 0 : r + i]);
        int seen = masked && r + i < t->rows ? FN(grad_keys)(t, r + i) - j : 0;
        for (int x = 0; x < n; x++) {
            int at = i * n + x;
            ds[at] = vmul(p[at], vsub(vload(g->y + (r + i) * LDX + j + x * VLEN), delta));
            if (masked) {
                p[at] = vkeep(p[at], vzero(), seen - x * VLEN);
                ds[at] = vkeep(ds[at], vzero(), seen - x * VLEN);
            }
        }
    }
    STORE_GRAD(g, r, j, p, ds, n);
}

static inline __attribute__((always_inline)) void FN(grad_weight_rows)(const FN(grad) *g, int r,
                                                                       int keys, int masked)
{
    enum { N = 4 / (PAIR * ROW_UNITS) };
    int j = 0;
    for (; j + N * VLEN <= keys; j += N * VLEN)
        FN(grad_weights)(g, r, j, N, masked);
    for (; j < keys; j += VLEN)
        FN(grad_weights)(g, r, j, 1, masked);
    /* the products may read this far behind the keys that the rows see */
    const vf zero[4] = {vzero(), vzero(), vzero(), vzero()};
    for (; j < keys + MR; j += VLEN)
        STORE_GRAD(g, r, j, zero, zero, 1);
}

/* Scores of row i that the cap holds get the cap, and no slope. */
static void FN(grad_cap)(const FN(grad) *g, int i)
{
    const ha_grad_tile *t = g->t;
    float *x = g->x + i * LDX, *y = g->y + i * LDX;
    int keys = FN(grad_keys)(t, i);
    for (int j = 0; j < keys; j++)
        if (x[j] >= t->cap[i]) {
            t->capped[i] += y[j] - t->delta[i];
            x[j] = t->cap[i];
            y[j] = t->delta[i];
        }
}

static void FN(grad_all_weights)(const FN(grad) *g)
{
    const ha_grad_tile *t = g->t;
    for (int i = 0; t->cap && i < t->rows; i++)
        FN(grad_cap)(g, i);
    for (int r = 0; r < t->rows; r += GROUP) {
        int keys = FN(grad_group_keys)(t, r);
        int masked = keys > FN(grad_keys)(t, r) || r + GROUP > t->rows;
        for (int i = r; i < r + GROUP; i += PAIR * ROW_UNITS)
            if (masked)
                FN(grad_weight_rows)(g, i, keys, 1);
            else
                FN(grad_weight_rows)(g, i, keys, 0);
    }
}

/* ---- 3 and 4: sums --------------------------------------------------------------------------- */

/* The first n rows of out += a block, which was summed on its own first: fewer roundings. */
static inline __attribute__((always_inline)) void FN(grad_add)(float *out, int64_t ld,
                                                               vf acc[MR][NRV], int n, int nv)
{
    for (int i = 0; i < MR; i++)
        if (i < n)
            for (int j = 0; j < nv; j++)
                vstore(out + i * ld + j * VLEN,
                       vadd(acc[i][j], vload(out + i * ld + j * VLEN)));
}

/* out_j += sum over `units` units of rows of a_ij b_i, of n keys j. */
static inline __attribute__((always_inline)) void FN(grad_key_block)(float *out, int64_t ld,
                                                                     const float *a, const float *b,
                                                                     int64_t units, int n, int rest,
                                                                     int nv)
{
    vf acc[MR][NRV];
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < nv; j++)
            acc[i][j] = vzero();
    BLOCK_T(acc, nv, a, LDX, b, nv * VLEN, units, rest);
    FN(grad_add)(out, ld, acc, n, nv);
}

/* All keys and one column panel at b, nv vectors wide. */
static inline __attribute__((always_inline)) void FN(grad_keys_panel)(const ha_grad_tile *t,
                                                                      float *out, int64_t ld,
                                                                      const float *a,
                                                                      const float *b, int nv)
{
    const int64_t units = ha_round_up(t->rows, PAIR * ROW_UNITS) / PAIR;
    int keys = t->keys;
    if (units % STEPS == 0 && FN(grad_keys)(t, 0) == keys)
        for (; keys > 0; keys -= MR, out += MR * ld, a += MR * ROW_UNITS)
            FN(grad_key_block)(out, ld, a, b, units, keys, 0, nv);
    else
        for (int j = 0, first = 0; j < keys; j += MR, out += MR * ld) {
            while (first < t->rows && FN(grad_keys)(t, first) <= j)
                first++;
            if (first == t->rows)
                return;
            int64_t u = first / GROUP * (GROUP / PAIR);
            FN(grad_key_block)(out, ld, a + u * LDX + j * ROW_UNITS, b + u * nv * VLEN, units - u,
                               keys - j, 1, nv);
        }
}

/* out_j += sum_i a_ij b_i, b being a column pack of `columns` columns that holds the rows. */
static __attribute__((noinline)) void FN(grad_key_sums)(const ha_grad_tile *t, float *out,
                                                        int64_t ld, const float *a, const float *b,
                                                        int columns)
{
    const ha_panels panels = ha_column_panels(columns, VLEN, NR);
    int64_t width;
    for (int64_t c = 0; c < columns; c += width) {
        width = ha_panel_width(&panels, c);
        BY_WIDTH(FN(grad_keys_panel), (int)(width / VLEN), t, out + c, ld, a,
                 b + c * t->rpanel + t->rfirst * width)
    }
}

/* dq += dS k for the units [u, u + VSTEP) of the column panel at b, nv vectors wide. */
static inline __attribute__((always_inline)) void FN(grad_rows_panel)(const ha_grad_tile *t,
                                                                      float *out, const float *a,
                                                                      const float *b, int64_t u,
                                                                      int nv)
{
    const int64_t ld = t->lddq;
    a += u * ROW_UNITS;
    for (int r = 0; r < t->rows; r += MR, a += MR * LDX, out += MR * ld) {
        int64_t units = FN(grad_group_keys)(t, r / GROUP * GROUP) / PAIR - u;
        if (units <= 0)
            continue;
        vf acc[MR][NRV];
        for (int i = 0; i < MR; i++)
            for (int j = 0; j < nv; j++)
                acc[i][j] = vzero();
        BLOCK(acc, nv, a, LDX, b, nv * VLEN, units < VSTEP ? units : VSTEP,
              VLEN / PAIR % STEPS);
        FN(grad_add)(out, ld, acc, t->rows - r, nv);
    }
}

static __attribute__((noinline)) void FN(grad_row_sums)(const ha_grad_tile *t, const float *ds)
{
    const ha_panels panels = ha_column_panels(t->head_dim, VLEN, NR);
    int64_t width;
    for (int64_t u = 0; u * PAIR < t->keys; u += VSTEP)
        for (int64_t c = 0; c < t->head_dim; c += width) {
            width = ha_panel_width(&panels, c);
            const float *b = (const float *)t->k_sum + c * t->kpanel + (t->kfirst + u) * width;
            BY_WIDTH(FN(grad_rows_panel), (int)(width / VLEN), t, t->dq + c, ds, b, u)
        }
}

/* ---- all of it ------------------------------------------------------------------------------- */

static void FN(backward)(const ha_grad_tile *t)
{
    static const float zeros[GC];
    FN(grad) g = {.t = t, .x = t->scratch, .y = t->scratch + GR * LDX};
    g.dsr = g.y;
    g.pt = PAIR == 1 ? g.x : g.y + GR * LDX;
    g.dst = PAIR == 1 ? g.y : g.pt + GR / PAIR * LDX;
    FN(grad_product) scores = {.out = g.x, .a = t->q, .b = t->k, .dim = t->head_dim,
                               .scale = t->scale, .w = t->logw};
    FN(grad_product) slopes = {.out = g.y, .a = t->dout, .b = t->v, .dim = t->head_dim_v,
                               .scale = 1, .w = zeros};
    FN(grad_products)(t, &scores, t->dout, t->head_dim_v);
    int64_t ldq = ha_round_up(ha_round_up(t->head_dim, PAIR * ROW_UNITS) / PAIR, VLEN);
    FN(grad_products)(t, &slopes, (const float *)t->q + t->rows * ldq, t->head_dim);
    FN(grad_all_weights)(&g);
    FN(grad_key_sums)(t, t->dv, t->lddv, g.pt, t->dout_sum, t->head_dim_v);
    FN(grad_key_sums)(t, t->dk, t->lddk, g.dst, t->q_sum, t->head_dim);
    FN(grad_row_sums)(t, g.dsr);
}

#undef GROUP
#undef LDX
