/* SPDX-License-Identifier: Apache-2.0
 *
 * Columns from a source of their own: f32 rows, as means of many keys would be, attended with
 * weights beside the keys of a problem of any type, against float64; and gradients of columns added
 * to the right rows, in order.
 */
#include <math.h>
#include <string.h>

#include "checkmain.h"
#include "cpu/columns.h"
#include "plan.h"
#include "tensors.h"

enum { ROWS = 19, KEYS = 90, OWN = 37, DIM = 20, DIM_V = 27 };

/* ---- a problem and the columns beside it ----------------------------------------------------- */

/* Rows of q attend to some keys, by index, and to OWN columns in memory of their own. */
typedef struct scene {
    tensors t;
    hyperattn_ctx *ctx;
    hyperattn_plan *plan;
    const ha_cpu_plan *cpu;
    guarded mem;
    ha_key_head kh;
    ha_softmax rows;
    ha_key_pack pack;
    ha_picks picks;
    float own_k[OWN][DIM], own_v[OWN][DIM_V];
    float *own_logw;
} scene;

static void carve(ha_carver *c, scene *s)
{
    ha_softmax_carve(c, s->cpu, &s->rows, ROWS);
    ha_key_pack_carve(c, s->cpu, &s->pack);
    ha_picks_carve(c, s->cpu, &s->picks);
    s->own_logw = ha_carve(c, HA_BATCH_KEYS, sizeof *s->own_logw);
}

static void fill_columns(scene *s)
{
    rng r = rng_new(77);
    s->picks.n = 0;
    s->picks.kind = HA_SAMPLED_COLUMNS;
    for (uint32_t j = 1; j < KEYS; j += 3) {
        s->picks.key[s->picks.n] = (j * 7) % KEYS;
        s->picks.logw[s->picks.n++] = (float)rng_gauss(&r);
    }
    for (int j = 0; j < OWN; j++) {
        s->own_logw[j] = (float)(2 * rng_gauss(&r));
        for (int c = 0; c < DIM; c++)
            s->own_k[j][c] = (float)rng_gauss(&r);
        for (int c = 0; c < DIM_V; c++)
            s->own_v[j][c] = (float)rng_gauss(&r);
    }
}

static void scene_begin(scene *s, const char *level, hyperattn_dtype dtype)
{
    hyperattn_problem p = problem_of(1, ROWS, DIM);
    p.seqlen_k = KEYS;
    p.head_dim_v = DIM_V;
    p.dtype = dtype;
    s->t = tensors_new(&p, AT_END);
    tensors_fill(&s->t, FILL_GAUSS, 5);
    s->ctx = ctx_at(level, 1);
    ck_ok(hyperattn_plan_create(&s->plan, s->ctx, &p, NULL));
    s->cpu = s->plan->view.data;
    ha_carver size = {0};
    carve(&size, s);
    s->mem = guarded_workspace(size.used);
    memset(s->mem.data, 0xFF, s->mem.size);
    ha_carver c = {.base = (char *)s->mem.data};
    carve(&c, s);
    const ha_tensors all = {s->t.mem[T_Q].data, s->t.mem[T_K].data, s->t.mem[T_V].data,
                            s->t.mem[T_OUT].data, (float *)s->t.lse.data};
    ha_aim_forward(&s->kh, s->cpu, &s->plan->view, &all, 0);
    fill_columns(s);
}

static void scene_end(scene *s)
{
    ck_good(guarded_check(&s->mem));
    guarded_free(&s->mem);
    hyperattn_plan_destroy(s->plan);
    hyperattn_ctx_destroy(s->ctx);
    tensors_free(&s->t);
}

/* The columns whose rows are the scene's own. */
static ha_columns own_columns(scene *s)
{
    return (ha_columns){
        .k = {.base = s->own_k, .stride = DIM, .dtype = HYPERATTN_F32},
        .v = {.base = s->own_v, .stride = DIM_V, .dtype = HYPERATTN_F32},
        .logw = s->own_logw,
        .n = OWN,
        .kind = HA_SAMPLED_COLUMNS,
    };
}

static void attend(scene *s, const ha_columns *c)
{
    ha_columns_pack(s->cpu, &s->pack, c, 1);
    ha_columns_attend(s->cpu, &s->rows, ROWS, &s->pack, c, NULL, 1, NULL);
}

/* Keys of the problem and own columns, in either order. */
static void attend_both(scene *s, int own_first)
{
    const ha_query_rows at = {&s->kh, 0, NULL, 0, ROWS};
    const ha_columns picked = ha_columns_picked(&s->kh, &s->picks), own = own_columns(s);
    tensors_reset(&s->t);
    ha_softmax_load_q(s->cpu, &s->rows, &at);
    ha_softmax_clear(s->cpu, &s->rows, ROWS);
    attend(s, own_first ? &own : &picked);
    attend(s, own_first ? &picked : &own);
    ha_softmax_finish(s->cpu, &s->rows, &at);
}

/* ---- the same in float64 --------------------------------------------------------------------- */

static double score(const scene *s, int64_t i, int64_t j, int own)
{
    double sum = 0;
    for (int64_t c = 0; c < DIM; c++)
        sum += tensors_get(&s->t, T_Q, 0, 0, i, c) *
               (own ? (double)s->own_k[j][c] : tensors_get(&s->t, T_K, 0, 0, j, c));
    return sum * (double)s->t.full.softmax_scale;
}

/* exp(lse) and out of one row; log weights are of base 2. */
static double attend_double(const scene *s, int64_t i, double out[DIM_V])
{
    double sum = 0;
    memset(out, 0, DIM_V * sizeof *out);
    for (int64_t x = 0; x < s->picks.n + OWN; x++) {
        int own = x >= s->picks.n;
        int64_t j = own ? x - s->picks.n : (int64_t)s->picks.key[x];
        double logw = (double)(own ? s->own_logw[j] : s->picks.logw[x]);
        double weight = exp2(logw) * exp(score(s, i, j, own));
        sum += weight;
        for (int64_t c = 0; c < DIM_V; c++)
            out[c] += weight *
                      (own ? (double)s->own_v[j][c] : tensors_get(&s->t, T_V, 0, 0, j, c));
    }
    for (int64_t c = 0; c < DIM_V; c++)
        out[c] /= sum;
    return sum;
}

static const char *check_rows(const scene *s)
{
    int rounds = s->cpu->arith->pair == 2; /* products of bf16 */
    double slack = rounds ? 0x1p-6 : 1e-5, store = dtype_eps(s->t.full.dtype), want[DIM_V];
    for (int64_t i = 0; i < ROWS; i++) {
        double lse = log(attend_double(s, i, want)), got = (double)tensors_lse(&s->t, 0, 0, i);
        if (!(fabs(got - lse) <= (rounds ? 0x1p-7 : 1e-5)))
            return failure("lse of row %lld is %.9g, not %.9g", (long long)i, got, lse);
        for (int64_t c = 0; c < DIM_V; c++) {
            double out = tensors_get(&s->t, T_OUT, 0, 0, i, c);
            if (!(fabs(out - want[c]) <= slack + store * fabs(want[c])))
                return failure("row %lld, column %lld is %.9g, not %.9g", (long long)i,
                               (long long)c, out, want[c]);
        }
    }
    return NULL;
}

START_TEST(columns_may_have_a_source_of_their_own)
{
    static scene s;
    for (int dtype = HYPERATTN_F32; dtype <= HYPERATTN_F16; dtype++) {
        scene_begin(&s, levels[_i], (hyperattn_dtype)dtype);
        for (int own_first = 0; own_first < 2; own_first++) {
            attend_both(&s, own_first);
            ck_good_at(check_rows(&s), "%s, %s, own columns %s", levels[_i],
                       dtype_name((hyperattn_dtype)dtype), own_first ? "first" : "last");
        }
        scene_end(&s);
    }
}
END_TEST

/* ---- gradients ------------------------------------------------------------------------------- */

enum { COLUMNS = 200, SUMS = 50, WIDTH_K = 24, WIDTH_V = 33 };

typedef struct scatter {
    float dk[COLUMNS][WIDTH_K], dv[COLUMNS][WIDTH_V];
    float to_k[SUMS][WIDTH_K], to_v[SUMS][WIDTH_V], want_k[SUMS][WIDTH_K], want_v[SUMS][WIDTH_V];
    uint32_t index[COLUMNS], found[COLUMNS + 1];
} scatter;

/* Sizes differ so much that another order gives other bits. */
static float any_size(rng *r)
{
    return (float)ldexp(rng_gauss(r), (int)rng_below(r, 40));
}

static void fill_scatter(scatter *s, rng *r)
{
    for (int i = 0; i < COLUMNS; i++) {
        s->index[i] = (uint32_t)rng_below(r, SUMS);
        for (int c = 0; c < WIDTH_K; c++)
            s->dk[i][c] = any_size(r);
        for (int c = 0; c < WIDTH_V; c++)
            s->dv[i][c] = any_size(r);
    }
    for (int i = 0; i < SUMS; i++) {
        for (int c = 0; c < WIDTH_K; c++)
            s->to_k[i][c] = s->want_k[i][c] = any_size(r);
        for (int c = 0; c < WIDTH_V; c++)
            s->to_v[i][c] = s->want_v[i][c] = any_size(r);
    }
}

static void add_plainly(scatter *s, int n, uint32_t first, uint32_t end)
{
    for (int i = 0; i < n; i++) {
        if (s->index[i] < first || s->index[i] >= end)
            continue;
        for (int c = 0; c < WIDTH_K; c++)
            s->want_k[s->index[i]][c] += s->dk[i][c];
        for (int c = 0; c < WIDTH_V; c++)
            s->want_v[s->index[i]][c] += s->dv[i][c];
    }
}

START_TEST(gradients_go_to_their_rows_in_order)
{
    static const int counts[] = {0, 1, 7, 8, 9, 64, COLUMNS};
    static scatter s;
    rng r = rng_new(9);
    for (int count = 0; count < COUNT(counts); count++)
        for (uint32_t first = 0; first <= SUMS; first += 10) {
            uint32_t end = first + 17 < SUMS ? first + 17 : SUMS;
            fill_scatter(&s, &r);
            add_plainly(&s, counts[count], first, end);
            const ha_column_sums to = {&s.to_k[0][0], &s.to_v[0][0], WIDTH_K, WIDTH_V};
            const ha_column_sums from = {&s.dk[0][0], &s.dv[0][0], WIDTH_K, WIDTH_V};
            ha_columns_scatter(&to, &from, s.index, counts[count], first, end, s.found);
            ck_assert_msg(memcmp(s.to_k, s.want_k, sizeof s.to_k) == 0 &&
                              memcmp(s.to_v, s.want_v, sizeof s.to_v) == 0,
                          "%d columns, rows [%u, %u): another sum", counts[count], first, end);
        }
}
END_TEST

int main(void)
{
    int nlevels = topic_levels();
    TCase *topic = topic_begin("columns");
    tcase_add_loop_test(topic, columns_may_have_a_source_of_their_own, 0, nlevels);
    tcase_add_test(topic, gradients_go_to_their_rows_in_order);
    return topic_end();
}
