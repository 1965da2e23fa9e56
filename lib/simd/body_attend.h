/* SPDX-License-Identifier: Apache-2.0
 *
 * One step of online softmax, ha_arith.attend: scores of a query tile against a chunk of keys,
 * row maxima, exponentials and row sums, and the product with the values. Included once per
 * arithmetic; before that the includer defines
 *     FN(name)                  the arithmetic's function names
 *     PAIR, ROW_UNITS           ha_arith.pair and row_units
 *     BLOCK(acc, nv, ...)       the register block, as block, MR rows of it
 *     STORE_P(s, r, j, p, n)    stores n vectors of row r's weights, from key j on, over the scores
 *                               s[BR][BC], as in a query tile whose ldq is BC
 */

/* Scores of MR rows against one key panel, nv vectors wide, in the log2 domain; top takes the
 * maxima of what each lane has seen of each row. */
static inline __attribute__((always_inline)) void FN(score_block)(float *s, float *top,
                                                                  const float *q, int64_t ldq,
                                                                  const float *k, int64_t depth,
                                                                  int rest, const float *logw,
                                                                  float scale, int nv)
{
    vf acc[MR][NRV], high[MR];
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < nv; j++)
            acc[i][j] = vzero();
    BLOCK(acc, nv, q, ldq, k, NR, depth, rest);
    OPAQUE(top); /* not loaded before the product, which needs all registers */
    OPAQUE(logw);
    for (int i = 0; i < MR; i++)
        high[i] = vload(top + i * VLEN);
    for (int j = 0; j < nv; j++) {
        vf w = vload(logw + j * VLEN);
        for (int i = 0; i < MR; i++) {
            vf x = vfma(acc[i][j], vset1(scale), w);
            high[i] = vmax(x, high[i]);
            vstore(s + i * BC + j * VLEN, x);
        }
    }
    for (int i = 0; i < MR; i++)
        vstore(top + i * VLEN, high[i]);
}

/* nv vectors of one column panel: acc += weights of MR rows times the values of `units` units. The
 * product is summed on its own first: rounding errors then grow with VSTEP and the number of steps
 * in place of their product. */
static inline __attribute__((always_inline)) void FN(value_block)(float *out, int64_t ldacc,
                                                                  const float *p, const float *v,
                                                                  int64_t units, int nv)
{
    vf acc[MR][NRV];
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < nv; j++)
            acc[i][j] = vzero();
    BLOCK(acc, nv, p, BC, v, nv * VLEN, units, VLEN / PAIR % STEPS);
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < nv; j++)
            vstore(out + i * ldacc + j * VLEN, vadd(acc[i][j], vload(out + i * ldacc + j * VLEN)));
}

/* Keys that row i sees. */
static inline int FN(row_keys)(const ha_tile *t, int i)
{
    int keys = t->limit ? t->limit[i] : t->keys;
    return keys < 0 ? 0 : keys < t->keys ? keys : t->keys;
}

/* Keys that the rows [r, r + MR) need, as whole vectors. */
static inline int FN(group_keys)(const ha_tile *t, int r)
{
    return (FN(row_keys)(t, r + MR - 1) + VLEN - 1) / VLEN * VLEN;
}

/* Masks and caps what score_block stored of nv vectors from key c on, and takes the maxima. Padded
 * keys are masked too: their score is NaN where q holds an Inf. */
static void FN(mask_block)(const ha_tile *t, float *top, int r, int c, int nv)
{
    for (int i = r; i < r + MR; i++) {
        vf high = vload(top + i * VLEN), cap = vset1(t->cap ? t->cap[i] : INFINITY);
        float *s = t->scratch + i * BC + c;
        for (int j = 0; j < nv; j++) {
            vf x = vmin(cap, vload(s + j * VLEN));
            x = vkeep(x, vset1(-INFINITY), FN(row_keys)(t, i) - c - j * VLEN);
            high = vmax(x, high);
            vstore(s + j * VLEN, x);
        }
        vstore(top + i * VLEN, high);
    }
}

/* The panel from key c on, of which some rows do not see every key, or whose scores are capped. */
static __attribute__((noinline)) void FN(masked_scores)(const ha_tile *t, float *top, int c)
{
    int64_t depth = ha_round_up(t->head_dim, PAIR * ROW_UNITS) / PAIR;
    int64_t ldq = ha_round_up(depth, VLEN);
    const float *k = (const float *)t->k + c * depth;
    for (int r = 0; r < t->rows; r += MR) {
        float unmasked[MR * VLEN] = {0}, *s = t->scratch + r * BC + c;
        const float *q = (const float *)t->q + r * ldq;
        int left = FN(group_keys)(t, r) - c;
        if (left <= 0)
            continue;
        int nv = left < NR ? left / VLEN : NRV;
        int masked = t->cap || c + nv * VLEN > FN(row_keys)(t, r);
        BY_WIDTH(FN(score_block), nv, s, masked ? unmasked : top + r * VLEN, q, ldq, k, depth, 1,
                 t->logw + c, t->scale)
        if (masked)
            FN(mask_block)(t, top, r, c, nv);
    }
}

/* The panel from key c on, all of it seen by all rows. rest: as block's. */
static inline __attribute__((always_inline)) void FN(full_scores)(const ha_tile *t, float *top,
                                                                  int c, ahead_rows *ahead,
                                                                  int rest)
{
    int64_t depth = ha_round_up(t->head_dim, PAIR * ROW_UNITS) / PAIR;
    int64_t ldq = ha_round_up(depth, VLEN);
    const float *q = t->q, *k = (const float *)t->k + c * depth, *next = k + depth * NR;
    const float *logw = t->logw + c;
    const float scale = t->scale;
    float *s = t->scratch + c;
    int rows = t->rows;
    int64_t share = prefetch_share(depth * NR, (rows + MR - 1) / MR);
    for (; rows > 0; rows -= MR, q += MR * ldq, s += MR * BC, top += MR * VLEN) {
        next = prefetch(next, share);
        if (ahead->left)
            prefetch_rows(ahead);
        FN(score_block)(s, top, q, ldq, k, depth, rest, logw, scale, NRV);
    }
}

/* Apart, as the register block needs all registers. */
static __attribute__((noinline)) void FN(full_scores_even)(const ha_tile *t, float *top, int c,
                                                           ahead_rows *ahead)
{
    FN(full_scores)(t, top, c, ahead, 0);
}

static __attribute__((noinline)) void FN(full_scores_odd)(const ha_tile *t, float *top, int c,
                                                          ahead_rows *ahead)
{
    FN(full_scores)(t, top, c, ahead, 1);
}

/* All scores, and the maxima of each row's, one vector a row. */
static void FN(scores)(const ha_tile *t, float *top)
{
    int64_t rows = ha_round_up(t->rows, MR);
    for (int64_t x = 0; x < rows * VLEN; x += VLEN)
        vstore(top + x, vset1(-INFINITY));
    /* limits do not decrease: the first row sees least */
    int seen = t->cap ? 0 : FN(row_keys)(t, 0);
    int64_t blocks = rows / MR * (seen / NR);
    ahead_rows ahead = {t->ahead, t->nahead, blocks ? (t->nahead + blocks - 1) / blocks : 0,
                        t->ahead_bytes};
    for (int c = 0; c < t->keys; c += NR)
        if (c + NR > seen)
            FN(masked_scores)(t, top, c);
        else if (t->head_dim % (STEPS * PAIR) == 0)
            FN(full_scores_even)(t, top, c, &ahead);
        else
            FN(full_scores_odd)(t, top, c, &ahead);
}

/* n vectors of row r's scores become weights; returns their sum. */
static inline __attribute__((always_inline)) vf FN(weights)(float *s, int r, int j, vf base, int n)
{
    vf p[4], sum = vzero();
    for (int i = 0; i < n; i++)
        p[i] = vsub(base, vload(s + r * BC + j + i * VLEN));
    vexp2_neg(p, n);
    for (int i = 0; i < n; i++)
        sum = i ? vadd(sum, p[i]) : p[i];
    STORE_P(s, r, j, p, n);
    return sum;
}

/* The running maximum of row r becomes top. */
static void FN(grow_max)(const ha_tile *t, int r, float top)
{
    if (t->m[r] != -INFINITY) {
        vf alpha = vset1(top - t->m[r]);
        vexp2_neg(&alpha, 1);
        float *acc = t->acc + r * t->ldacc;
        for (int c = 0; c < t->head_dim_v; c += VLEN)
            vstore(acc + c, vmul(vload(acc + c), alpha));
        t->l[r] *= vfirst(alpha);
    }
    t->m[r] = top;
}

/* Turns a row's scores into weights relative to the running maximum, which may grow. */
static inline void FN(softmax_row)(const ha_tile *t, int r, int keys, vf top)
{
    float *s = t->scratch;
    if (vabove(top, vset1(t->m[r]))) /* rarely: spares the maximum over the lanes */
        FN(grow_max)(t, r, vhmax(top));
    vf base = vset1(t->m[r] == -INFINITY ? 0 : t->m[r]), sum = vzero();
    int j = 0;
    for (; j + 4 * VLEN <= keys; j += 4 * VLEN)
        sum = vadd(sum, FN(weights)(s, r, j, base, 4));
    for (; j < keys; j += VLEN)
        sum = vadd(sum, FN(weights)(s, r, j, base, 1));
    t->l[r] += vhsum(sum);
}

/* Copies `units` units of a column panel, with the keys from limit on set to zero. */
static void FN(copy_visible)(float *dst, const float *v, int64_t width, int64_t units, int limit)
{
    int64_t seen = limit < 0 ? 0 : limit / (PAIR * ROW_UNITS) * ROW_UNITS;
    seen = seen < units ? seen : units;
    memcpy(dst, v, (size_t)(seen * width) * sizeof *dst);
    memset(dst + seen * width, 0, (size_t)((units - seen) * width) * sizeof *dst);
    if (limit > 0 && seen < units) /* the first values of each row_units */
        for (int64_t x = seen * width; x < (seen + ROW_UNITS) * width; x += ROW_UNITS)
            memcpy(dst + x, v + x, (size_t)(limit % (PAIR * ROW_UNITS)) * sizeof *dst / PAIR);
}

/* The values of a masked chunk that holds an Inf or NaN: 0 * NaN must not reach rows that do not
 * see the key. Each row gets the product with what it sees, in the same order of operations as
 * ever, so that its bits do not depend on what it does not see. */
static void FN(values_carefully)(const ha_tile *t, int r)
{
    float seen[NR * VSTEP], acc[MR * NR];
    ha_panels panels = ha_column_panels(t->head_dim_v, VLEN, NR);
    int64_t units = FN(group_keys)(t, r) / PAIR, width;
    for (int64_t c = 0; c < t->head_dim_v; c += width) {
        const float *v = (const float *)t->v + c * t->vpanel;
        width = ha_panel_width(&panels, c);
        for (int i = r; i < r + MR; i++) {
            for (int x = 0; x < MR; x++)
                memcpy(acc + x * NR, t->acc + (r + x) * t->ldacc + c,
                       (size_t)width * sizeof *acc);
            for (int64_t u = 0; u < units; u += VSTEP) {
                int64_t n = units - u < VSTEP ? units - u : VSTEP;
                FN(copy_visible)(seen, v + (t->vfirst + u) * width, width, n,
                                 t->limit[i] - (int)u * PAIR);
                BY_WIDTH(FN(value_block), (int)(width / VLEN), acc, NR,
                         t->scratch + r * BC + u * ROW_UNITS, seen, n)
            }
            memcpy(t->acc + i * t->ldacc + c, acc + (i - r) * NR, (size_t)width * sizeof *acc);
        }
    }
}

/* All rows against the units [u, u + VSTEP) of the column panel at v, which is nv vectors wide;
 * meanwhile, the next panel is fetched. */
static inline __attribute__((always_inline)) void FN(value_rows)(const ha_tile *t, float *acc,
                                                                 const float *v, int64_t u,
                                                                 const float *next, int64_t share,
                                                                 int nv)
{
    const float *p = t->scratch + u * ROW_UNITS;
    const int64_t ldacc = t->ldacc, rows = t->rows;
    const int masked = t->limit != NULL;
    int64_t units = FN(group_keys)(t, 0) / PAIR - u;
    for (int r = 0; r < rows; r += MR, p += MR * BC, acc += MR * ldacc) {
        if (masked)
            units = FN(group_keys)(t, r) / PAIR - u;
        next = prefetch(next, share);
        if (units > 0)
            FN(value_block)(acc, ldacc, p, v, units < VSTEP ? units : VSTEP, nv);
    }
}

/* acc += weights times values. A panel is taken VSTEP units at a time, which the first-level cache
 * can hold while all rows pass. */
static __attribute__((noinline)) void FN(values)(const ha_tile *t)
{
    const ha_panels panels = ha_column_panels(t->head_dim_v, VLEN, NR);
    const int groups = (t->rows + MR - 1) / MR;
    const float *pack = t->v;
    int64_t width;
    for (int64_t u = 0; u * PAIR < t->keys; u += VSTEP)
        for (int64_t c = 0; c < t->head_dim_v; c += width) {
            width = ha_panel_width(&panels, c);
            /* next: the same units of the next column panel, or the next units of the first one */
            int64_t c2 = c + width < t->head_dim_v ? c + width : 0;
            int64_t width2 = ha_panel_width(&panels, c2);
            const float *v = pack + c * t->vpanel + (t->vfirst + u) * width;
            const float *next = pack + c2 * t->vpanel + (t->vfirst + (c2 ? u : u + VSTEP)) * width2;
            BY_WIDTH(FN(value_rows), (int)(width / VLEN), t, t->acc + c, v, u, next,
                     prefetch_share(VSTEP * width2, groups))
        }
}

static void FN(attend)(const ha_tile *t)
{
    float top[BR * VLEN];
    FN(scores)(t, top);
    for (int r = 0; r < t->rows; r += MR) {
        int keys = FN(group_keys)(t, r);
        for (int i = r; i < r + MR; i++)
            FN(softmax_row)(t, i, keys, vload(top + i * VLEN));
    }
    if (t->careful && t->limit)
        for (int r = 0; r < t->rows; r += MR)
            FN(values_carefully)(t, r);
    else
        FN(values)(t);
}
