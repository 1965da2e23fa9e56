/* SPDX-License-Identifier: Apache-2.0
 *
 * attend_in_place, in the vocabulary of a vec_*.h: a few rows against keys that are read once, from
 * memory, whose rate is the limit. Keys are taken in chunks that the caches hold, and groups of 4,
 * 2 or 1 rows pass over a chunk in turn: scores, which run over head_dim in vectors, their weights,
 * and the product with the values, which runs over the values' columns in vectors. A group's scores
 * lie as [key][row], so that a vector of them is VLEN / rows keys.
 *
 * A group takes only the keys that all its rows see; what a row sees beyond them it takes alone. So
 * no value is multiplied by the weight of a row that does not see it.
 */

/* Sums in one block of scores: whole vectors, and enough accumulators for a processor's latency. */
#define SUMS (VLEN < 8 ? 8 : VLEN)

/* Keys and bytes of a chunk. */
#define CHUNK_KEYS 256
#define CHUNK_BYTES 32768

/* One chunk: its rows of k and v. Behind the last one, k repeats it for the rest of a block. */
typedef struct chunk {
    const ha_in_place *t;
    int first, keys, last; /* last: keys that any row sees, in all chunks */
    const char *k[CHUNK_KEYS + SUMS], *v[CHUNK_KEYS];
} chunk;

/* Lane i of the result is the sum over r[i]. */
#ifndef VSUMS
static inline __attribute__((always_inline)) vf vsums(vf r[VLEN])
{
    vtranspose(r);
    for (int n = VLEN / 2; n > 0; n /= 2)
        for (int i = 0; i < n; i++)
            r[i] = vadd(r[i], r[i + n]);
    return r[0];
}
#endif

/* Calls f with its last arguments, a dtype and a number of rows, constant. */
#define BY_DTYPE(f, rows, dtype, ...)                             \
    switch (dtype) {                                              \
    case HYPERATTN_F32: f(__VA_ARGS__, HYPERATTN_F32, rows); break;   \
    case HYPERATTN_BF16: f(__VA_ARGS__, HYPERATTN_BF16, rows); break; \
    case HYPERATTN_F16: f(__VA_ARGS__, HYPERATTN_F16, rows); break;   \
    }
#define BY_ROWS(f, rows, dtype, ...)                            \
    switch (rows) {                                             \
    case 1: BY_DTYPE(f, 1, dtype, __VA_ARGS__) break;           \
    case 2: BY_DTYPE(f, 2, dtype, __VA_ARGS__) break;           \
    default: BY_DTYPE(f, 4, dtype, __VA_ARGS__) break;          \
    }

/* ---- scores ---------------------------------------------------------------------------------- */

/* acc[key * rows + row] += q_row.k_key for the columns [c, c + VLEN) of n. */
static inline __attribute__((always_inline)) void dots_step(vf acc[SUMS], const float *const *q,
                                                            const char *const *k, int64_t c,
                                                            int64_t n, hyperattn_dtype dtype,
                                                            int rows)
{
    for (int j = 0; j < SUMS / rows; j++) {
        vf x = load_row(k[j], dtype, c, n);
        for (int i = 0; i < rows; i++)
            acc[j * rows + i] = vfma(vload(q[i] + c), x, acc[j * rows + i]);
    }
}

/* What the caches are asked for while scores are computed: first the chunk's own values, then, by
 * the next group of rows, the keys of the next chunk. A hardware prefetcher loses its way at each
 * change between keys and values. */
typedef enum next_rows { NEXT_NONE, NEXT_VALUES, NEXT_KEYS } next_rows;

/* A group of rows and the keys of a chunk that all of them see. */
typedef struct group {
    const chunk *ch;
    int row, count; /* count <= 4 */
    int from, to;
    next_rows next; /* what is asked for while scores are computed, */
    int asks_keys;  /* and whether the next chunk's keys are while values are */
    float *s;   /* [to - from, whole blocks][rows] */
    float *top; /* [VLEN] maxima, lane x of row x % rows */
} group;

/* Asks for the keys [j, j + n) of what comes next. */
static inline void prefetch_next(const chunk *ch, next_rows next, int j, int n)
{
    const ha_in_place *t = ch->t;
    const ha_rows *rows = next == NEXT_KEYS ? &t->k : &t->v;
    int dim = next == NEXT_KEYS ? t->head_dim : t->head_dim_v;
    int64_t bytes = dim * (rows->dtype == HYPERATTN_F32 ? 4 : 2);
    int left = (next == NEXT_KEYS ? ch->last - ch->first - ch->keys : ch->keys) - j;
    for (int x = 0; x < n && x < left; x++) {
        const char *row = next == NEXT_KEYS ? ha_row_at(rows, ch->first + ch->keys + j + x)
                                       : ch->v[j + x];
        for (int64_t b = 0; b < bytes; b += 64)
            __builtin_prefetch(row + b, 0, 2);
    }
}

/* Scores of a group, and their maxima. Rows that do not exist repeat the last one. */
static inline __attribute__((always_inline)) void in_place_scores(const group *g,
                                                                  hyperattn_dtype dtype, int rows)
{
    const ha_in_place *t = g->ch->t;
    const int64_t n = t->head_dim, whole = n / VLEN * VLEN;
    const vf scale = vset1(t->scale), none = vset1(-INFINITY);
    const float *q[4];
    float *s = g->s;
    vf top = none;
    for (int i = 0; i < rows; i++)
        q[i] = t->q + (g->row + (i < g->count ? i : g->count - 1)) * t->ldq;
    for (int j = g->from; j < g->to; j += SUMS / rows, s += SUMS) {
        const char *const *k = g->ch->k + j;
        vf acc[SUMS];
        for (int x = 0; x < SUMS; x++)
            acc[x] = vzero();
        if (g->next)
            prefetch_next(g->ch, g->next, j, SUMS / rows);
        for (int64_t c = 0; c < whole; c += VLEN)
            dots_step(acc, q, k, c, c + VLEN, dtype, rows);
        if (whole < n)
            dots_step(acc, q, k, whole, n, dtype, rows);
        for (int x = 0; x < SUMS; x += VLEN) {
            vf y = vmul(vsums(acc + x), scale);
            if (g->to - j < SUMS / rows)
                y = vkeep(y, none, (g->to - j) * rows - x);
            top = vmax(y, top);
            vstore(s + x, y);
        }
    }
    vstore(g->top, top);
}

static __attribute__((noinline)) void in_place_all_scores(const group *g, int rows)
{
    BY_ROWS(in_place_scores, rows, g->ch->t->k.dtype, g)
}

/* ---- weights --------------------------------------------------------------------------------- */

/* The running maximum of a row becomes top. */
static void in_place_grow(const ha_in_place *t, int row, float top)
{
    float *acc = t->acc + row * t->ldacc;
    if (t->m[row] != -INFINITY) {
        vf alpha = vset1(top - t->m[row]);
        vexp2_neg(&alpha, 1);
        for (int64_t c = 0; c < t->head_dim_v; c += VLEN)
            vstore(acc + c, vmul(vload(acc + c), alpha));
        t->l[row] *= vfirst(alpha);
    }
    t->m[row] = top;
}

/* n vectors of scores become weights; returns their sum. */
static inline __attribute__((always_inline)) vf exponentials(float *s, vf base, int n)
{
    vf p[4], sum = vzero();
    for (int i = 0; i < n; i++)
        p[i] = vsub(base, vload(s + i * VLEN));
    vexp2_neg(p, n);
    for (int i = 0; i < n; i++) {
        sum = i ? vadd(sum, p[i]) : p[i];
        vstore(s + i * VLEN, p[i]);
    }
    return sum;
}

/* Scores become weights relative to the running maxima, which may grow. */
static void in_place_weights(const group *g, int rows)
{
    const ha_in_place *t = g->ch->t;
    const int keys = SUMS / rows, blocks = (g->to - g->from + keys - 1) / keys;
    float base[VLEN], part[VLEN];
    for (int i = 0; i < rows; i++) {
        int row = g->row + (i < g->count ? i : 0);
        float top = t->m[row];
        for (int x = i; x < VLEN; x += rows)
            top = g->top[x] > top ? g->top[x] : top;
        if (i < g->count && top > t->m[row])
            in_place_grow(t, row, top);
        for (int x = i; x < VLEN; x += rows)
            base[x] = t->m[row] == -INFINITY ? 0 : t->m[row];
    }
    vf sum = vzero();
    int x = 0;
    for (; x + 4 * VLEN <= blocks * SUMS; x += 4 * VLEN)
        sum = vadd(sum, exponentials(g->s + x, vload(base), 4));
    for (; x < blocks * SUMS; x += VLEN)
        sum = vadd(sum, exponentials(g->s + x, vload(base), 1));
    vstore(part, sum);
    for (int i = 0; i < g->count; i++) {
        float l = 0;
        for (x = i; x < VLEN; x += rows)
            l += part[x];
        t->l[g->row + i] += l;
    }
}

/* ---- values ---------------------------------------------------------------------------------- */

/* acc += weights times the columns from c on, nv vectors of them, of which n columns exist. */
static inline __attribute__((always_inline)) void values_block(const group *g, int64_t c, int64_t n,
                                                               hyperattn_dtype dtype, int rows,
                                                               int nv)
{
    const ha_in_place *t = g->ch->t;
    const char *const *v = g->ch->v + g->from;
    const float *p = g->s;
    vf acc[4][8];
    for (int i = 0; i < rows; i++)
        for (int x = 0; x < nv; x++)
            acc[i][x] = vzero();
    for (int j = g->to - g->from; j > 0; j--, v++, p += rows) {
        vf w[4];
        if (g->asks_keys && c == 0)
            prefetch_next(g->ch, NEXT_KEYS, g->to - j, 1);
        for (int i = 0; i < rows; i++)
            w[i] = vset1(p[i]);
        for (int x = 0; x < nv; x++) {
            vf y = load_row(*v, dtype, c + x * VLEN, n);
            for (int i = 0; i < rows; i++)
                acc[i][x] = vmadd(w[i], y, acc[i][x]);
        }
    }
    for (int i = 0; i < rows; i++)
        if (i < g->count)
            for (int x = 0; x < nv; x++) {
                float *out = t->acc + (g->row + i) * t->ldacc + c + x * VLEN;
                vstore(out, vadd(acc[i][x], vload(out)));
            }
}

static inline __attribute__((always_inline)) void in_place_values(const group *g,
                                                                  hyperattn_dtype dtype, int rows)
{
    const int64_t n = g->ch->t->head_dim_v;
    const int nv = 8 / rows;
    int64_t c = 0;
    for (; c + nv * VLEN <= n; c += nv * VLEN)
        values_block(g, c, c + nv * VLEN, dtype, rows, nv);
    for (; c + VLEN <= n; c += VLEN)
        values_block(g, c, c + VLEN, dtype, rows, 1);
    if (c < n)
        values_block(g, c, n, dtype, rows, 1);
}

static __attribute__((noinline)) void in_place_all_values(const group *g, int rows)
{
    BY_ROWS(in_place_values, rows, g->ch->t->v.dtype, g)
}

/* ---- all of it ------------------------------------------------------------------------------- */

/* Keys of a chunk that a row sees. */
static int in_place_seen(const chunk *ch, int row)
{
    int64_t keys = ch->t->limit ? (int64_t)ch->t->limit[row] - ch->first : ch->keys;
    return keys < 0 ? 0 : keys < ch->keys ? (int)keys : ch->keys;
}

/* `count` rows, all of which see the keys [from, to). */
static void in_place_group(const chunk *ch, int row, int count, int from, int to, next_rows next)
{
    float s[4 * (CHUNK_KEYS + SUMS)], top[VLEN];
    /* a single group of rows asks for the keys itself */
    const group g = {ch, row, count, from, to, next, next && ch->t->rows <= 4, s, top};
    int rows = count > 2 ? 4 : count;
    if (from >= to)
        return;
    in_place_all_scores(&g, rows);
    in_place_weights(&g, rows);
    in_place_all_values(&g, rows);
}

static void in_place_chunk(const chunk *ch)
{
    for (int row = 0; row < ch->t->rows; row += 4) {
        int count = ch->t->rows - row < 4 ? ch->t->rows - row : 4;
        int common = in_place_seen(ch, row); /* limits do not decrease */
        next_rows next = row == 0 ? NEXT_VALUES : row == 4 ? NEXT_KEYS : NEXT_NONE;
        in_place_group(ch, row, count, 0, common, next);
        for (int i = row + 1; i < row + count; i++)
            in_place_group(ch, i, 1, common, in_place_seen(ch, i), NEXT_NONE);
    }
}

static void attend_in_place(const ha_in_place *t)
{
    const ha_rows *v = t->head_dim_v ? &t->v : &t->k;
    int64_t wide = t->head_dim > t->head_dim_v ? t->head_dim : t->head_dim_v;
    int64_t most = CHUNK_BYTES / (wide * (t->k.dtype == HYPERATTN_F32 ? 4 : 2));
    most = most < SUMS ? SUMS : most < CHUNK_KEYS ? most / SUMS * SUMS : CHUNK_KEYS;
    chunk ch = {.t = t, .last = t->nkeys};
    if (t->limit && t->limit[t->rows - 1] < t->nkeys)
        ch.last = t->limit[t->rows - 1];
    for (ch.first = 0; ch.first < ch.last; ch.first += ch.keys) {
        ch.keys = ch.last - ch.first < most ? ch.last - ch.first : (int)most;
        for (int j = 0; j < ch.keys; j++) {
            ch.k[j] = ha_row_at(&t->k, ch.first + j);
            ch.v[j] = ha_row_at(v, ch.first + j);
        }
        for (int j = ch.keys; j < ch.keys + SUMS; j++)
            ch.k[j] = ch.k[ch.keys - 1];
        in_place_chunk(&ch);
    }
}
