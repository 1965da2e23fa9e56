/* SPDX-License-Identifier: Apache-2.0
 *
 * One step of online softmax, ha_arith.attend: scores of a query tile against a chunk of keys,
 * row maxima, exponentials and row sums, and the product with the values. Included once per
 * arithmetic; before that the includer defines
 *     FN(name)                  the arithmetic's function names
 *     PAIR                      values per unit
 *     BLOCK(acc, nv, ...)       the register block, as f32_block
 *     STORE_P(row, j, p)        stores vector j of a row's weights in the arithmetic's type
 *     FIRST_OF(unit)            a unit of values with all but its first one zero
 */

/* Scores of MR rows against one key panel, nv vectors wide, in the log2 domain. */
static inline __attribute__((always_inline)) void FN(score_block)(const ha_tile *t, float *s,
                                                                  const float *q, const float *k,
                                                                  const float *logw, int nv)
{
    int64_t depth = (t->head_dim + PAIR - 1) / PAIR;
    vf acc[MR][NRV], scale = vset1(t->scale);
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < nv; j++)
            acc[i][j] = vzero();
    BLOCK(acc, nv, q, ha_round_up(depth, VLEN), k, NR, depth);
    for (int j = 0; j < nv; j++) {
        vf w = vload(logw + j * VLEN);
        for (int i = 0; i < MR; i++)
            vstore(s + i * BC + j * VLEN, vfma(acc[i][j], scale, w));
    }
}

/* nv vectors of one column panel: acc += weights of MR rows times the values of `units` units. */
static inline __attribute__((always_inline)) void FN(value_block)(float *out, int64_t ldacc,
                                                                  const float *p, const float *v,
                                                                  int64_t width, int64_t units,
                                                                  int nv)
{
    vf acc[MR][NRV];
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < nv; j++)
            acc[i][j] = vload(out + i * ldacc + j * VLEN);
    BLOCK(acc, nv, p, BC, v, width, units);
    for (int i = 0; i < MR; i++)
        for (int j = 0; j < nv; j++)
            vstore(out + i * ldacc + j * VLEN, acc[i][j]);
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

/* Keys that the rows [r, r + MR) need, as whole vectors. */
static inline int FN(group_keys)(const ha_tile *t, int r)
{
    int keys = t->limit ? t->limit[r + MR - 1] : t->keys;
    keys = keys < 0 ? 0 : keys < t->keys ? keys : t->keys;
    return (keys + VLEN - 1) / VLEN * VLEN;
}

/* Asks the second-level cache for part i of n of the floats at p, which are needed once block n is
 * done: hardware prefetchers stop at a page's end, and a panel is about a page. */
static inline void FN(prefetch_part)(const float *p, int64_t floats, int i, int n)
{
    for (int64_t x = floats * i / n / 16 * 16; x < floats * (i + 1) / n; x += 16)
        __builtin_prefetch(p + x, 0, 2);
}

static void FN(scores)(const ha_tile *t)
{
    int64_t depth = (t->head_dim + PAIR - 1) / PAIR, ldq = ha_round_up(depth, VLEN);
    int groups = (t->rows + MR - 1) / MR;
    for (int c = 0; c < t->keys; c += NR) {
        const float *k = (const float *)t->k + c * depth;
        for (int r = 0; r < t->rows; r += MR) {
            int left = FN(group_keys)(t, r) - c;
            if (left <= 0)
                continue;
            int nv = left < NR ? left / VLEN : NRV;
            FN(prefetch_part)(k + depth * NR, depth * NR, r / MR, groups);
            BY_WIDTH(FN(score_block), nv, t, t->scratch + r * BC + c,
                     (const float *)t->q + r * ldq, k, t->logw + c)
        }
    }
}

/* Masks and caps one row of scores and returns its maximum. Padded keys are masked too: their score
 * is NaN where q holds an Inf. */
static inline float FN(row_max)(const ha_tile *t, float *s, int r, int keys)
{
    vf top = vset1(-INFINITY);
    const vf none = top;
    int seen = t->limit ? t->limit[r] : t->keys;
    for (int j = (seen < 0 ? 0 : seen) / VLEN * VLEN; j < keys; j += VLEN)
        vstore(s + j, vkeep(vload(s + j), none, seen - j));
    if (t->cap) {
        vf cap = vset1(t->cap[r]);
        for (int j = 0; j < keys; j += VLEN)
            vstore(s + j, vmin(cap, vload(s + j)));
    }
    for (int j = 0; j < keys; j += VLEN)
        top = vmax(vload(s + j), top);
    return vhmax(top);
}

/* n vectors of scores from j on become weights; returns their sum. */
static inline __attribute__((always_inline)) vf FN(weights)(float *s, int j, vf base, int n)
{
    vf p[4], sum = vzero();
    for (int i = 0; i < n; i++)
        p[i] = vsub(vload(s + j + i * VLEN), base);
    vexp2(p, n);
    for (int i = 0; i < n; i++) {
        sum = vadd(sum, p[i]);
        STORE_P(s, j + i * VLEN, p[i]);
    }
    return sum;
}

/* Turns a row's scores into weights relative to the running maximum, which may grow. */
static inline void FN(softmax_row)(const ha_tile *t, int r, int keys)
{
    float *s = t->scratch + r * BC, m = t->m[r];
    float top = FN(row_max)(t, s, r, keys);
    if (top > m) {
        if (m != -INFINITY) {
            vf alpha = vset1(m - top);
            vexp2(&alpha, 1);
            float *acc = t->acc + r * t->ldacc;
            for (int c = 0; c < t->dv; c += VLEN)
                vstore(acc + c, vmul(vload(acc + c), alpha));
            t->l[r] *= vfirst(alpha);
        }
        t->m[r] = m = top;
    }
    vf base = vset1(m == -INFINITY ? 0 : m), sum = vzero();
    int j = 0;
    for (; j + 4 * VLEN <= keys; j += 4 * VLEN)
        sum = vadd(sum, FN(weights)(s, j, base, 4));
    for (; j < keys; j += VLEN)
        sum = vadd(sum, FN(weights)(s, j, base, 1));
    t->l[r] += vhsum(sum);
}

/* Copies `units` units of a column panel, with the keys from limit on set to zero. */
static void FN(copy_visible)(float *dst, const float *v, int64_t width, int64_t units, int limit)
{
    int64_t seen = limit < 0 ? 0 : limit / PAIR < units ? limit / PAIR : units;
    memcpy(dst, v, (size_t)(seen * width) * sizeof *dst);
    memset(dst + seen * width, 0, (size_t)((units - seen) * width) * sizeof *dst);
    if (limit > 0 && limit % PAIR && seen < units)
        for (int64_t c = 0; c < width; c++)
            dst[seen * width + c] = FIRST_OF(v[seen * width + c]);
}

/* The values of a masked chunk that holds an Inf or NaN: 0 * NaN must not reach rows that do not
 * see the key. Each row gets the product with what it sees, in the same order of operations as ever,
 * so that its bits do not depend on what it does not see. */
static void FN(values_carefully)(const ha_tile *t, int r)
{
    float seen[NR * BC], acc[MR * NR];
    int64_t units = FN(group_keys)(t, r) / PAIR;
    for (int c = 0; c < t->dv; c += NR) {
        int64_t width;
        const float *v = v_panel((void *)(uintptr_t)t->v, t->vpanel, t->dv, c, &width);
        for (int i = r; i < r + MR; i++) {
            FN(copy_visible)(seen, v + t->vfirst * width, width, units, t->limit[i]);
            for (int x = 0; x < MR; x++)
                memcpy(acc + x * NR, t->acc + (r + x) * t->ldacc + c,
                       (size_t)width * sizeof *acc);
            BY_WIDTH(FN(value_block), (int)(width / VLEN), acc, NR, t->scratch + r * BC, seen,
                     width, units)
            memcpy(t->acc + i * t->ldacc + c, acc + (i - r) * NR, (size_t)width * sizeof *acc);
        }
    }
}

static void FN(values)(const ha_tile *t)
{
    int groups = (t->rows + MR - 1) / MR;
    for (int c = 0; c < t->dv; c += NR) {
        int64_t width, after;
        const float *v = v_panel((void *)(uintptr_t)t->v, t->vpanel, t->dv, c, &width);
        /* the next column panel, and behind the last one the next keys of the first */
        const float *next = c + NR < t->dv
            ? v_panel((void *)(uintptr_t)t->v, t->vpanel, t->dv, c + NR, &after) + t->vfirst * after
            : v_panel((void *)(uintptr_t)t->v, t->vpanel, t->dv, 0, &after) +
                  (t->vfirst + t->keys / PAIR) * after;
        for (int r = 0; r < t->rows; r += MR) {
            FN(prefetch_part)(next, t->keys / PAIR * after, r / MR, groups);
            BY_WIDTH(FN(value_block), (int)(width / VLEN), t->acc + r * t->ldacc + c, t->ldacc,
                     t->scratch + r * BC, v + t->vfirst * width, width,
                     FN(group_keys)(t, r) / PAIR)
        }
    }
}

static void FN(attend)(const ha_tile *t)
{
    FN(scores)(t);
    for (int r = 0; r < t->rows; r += MR) {
        int keys = FN(group_keys)(t, r);
        for (int i = r; i < r + MR; i++)
            FN(softmax_row)(t, i, keys);
    }
    if (t->careful && t->limit)
        for (int r = 0; r < t->rows; r += MR)
            FN(values_carefully)(t, r);
    else
        FN(values)(t);
}

#undef BY_WIDTH
