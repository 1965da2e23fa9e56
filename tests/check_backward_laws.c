/* SPDX-License-Identifier: Apache-2.0
 *
 * What gradients promise apart from their values: they are the slopes of forward, exactly zero
 * where nothing is seen, unmoved by what cannot matter, and a NaN goes no further than it must.
 * They take out and lse as given, so that parts of the keys add up to the whole. Each test runs
 * once per level.
 */
#include <math.h>
#include <string.h>

#include "checkmain.h"
#include "grad_oracle.h"
#include "hyper_oracle.h"

/* ---- ways to compute ------------------------------------------------------------------------- */

/* The hash is left out where a test changes q or k, for it would move with them. */
typedef struct way {
    const char *name;
    hyperattn_method method;
    hyperattn_heavy heavy;
    hyperattn_sampling sampling;
    int64_t nq, nk;
    int causal, masked, sinks, window;
    float kappa_cap;
    hyperattn_dtype dtype;
} way;

static const way ways[] = {
    {"exact", HYPERATTN_EXACT, .nq = 90, .nk = 110},
    {"exact causal", HYPERATTN_EXACT, .nq = 140, .nk = 140, .causal = 1},
    {"exact causal, more keys", HYPERATTN_EXACT, .nq = 60, .nk = 130, .causal = 1},
    {"exact causal, more queries", HYPERATTN_EXACT, .nq = 130, .nk = 60, .causal = 1},
    {"no block", HYPERATTN_HYPER, HYPERATTN_HEAVY_NONE, .nq = 150, .nk = 170},
    {"no block, causal", HYPERATTN_HYPER, HYPERATTN_HEAVY_NONE, .nq = 150, .nk = 150, .causal = 1,
     .sinks = 2, .window = 9},
    {"block mask", HYPERATTN_HYPER, .nq = 190, .nk = 180, .masked = 1},
    {"block mask, causal", HYPERATTN_HYPER, .nq = 150, .nk = 150, .masked = 1, .causal = 1,
     .sinks = 1},
};

static const way hashed_ways[] = {
    {"blocks", HYPERATTN_HYPER, .nq = 170, .nk = 190},
    {"blocks, causal", HYPERATTN_HYPER, .nq = 200, .nk = 200, .causal = 1, .sinks = 2},
    {"V-norm", HYPERATTN_HYPER, .sampling = HYPERATTN_SAMPLING_VNORM, .nq = 170, .nk = 190},
    {"no block, bf16", HYPERATTN_HYPER, HYPERATTN_HEAVY_NONE, .nq = 70, .nk = 190,
     .dtype = HYPERATTN_BF16},
    {"capped", HYPERATTN_HYPER, .nq = 170, .nk = 190, .kappa_cap = 8},
};

/* Query blocks of 40 rows, key blocks of 16; each lists some early key blocks. */
static const int64_t row_start[] = {0, 1, 2, 3, 5, 7}, key_blocks[] = {0, 1, 2, 1, 3, 0, 4};
static hyperattn_block_mask mask;

static hyperattn_problem problem_for(const way *w)
{
    hyperattn_problem p = problem_of(4, w->nq, 8);
    p.nheads_kv = 2;
    p.seqlen_k = w->nk;
    p.head_dim_v = 11;
    p.causal = w->causal;
    p.dtype = w->dtype;
    return p;
}

static hyperattn_params params_for(const way *w)
{
    hyperattn_params params;
    hyperattn_params_init(&params);
    params.method = w->method;
    params.heavy = w->heavy;
    params.sampling = w->sampling;
    params.block_size = 16;
    params.sample_size = 12;
    params.min_seq_len = 64;
    params.num_sinks = w->sinks;
    params.window = w->window;
    params.kappa_cap = w->kappa_cap;
    params.seed = 5;
    hyperattn_block_mask_init(&mask);
    mask.query_block = 40;
    mask.key_block = 16;
    mask.row_start = row_start;
    mask.key_blocks = key_blocks;
    if (w->masked)
        params.block_mask = &mask;
    return params;
}

/* One problem with all that a test needs, out and lse computed. */
typedef struct scene {
    hyperattn_ctx *ctx;
    hyperattn_params params;
    tensors t;
    pattern seen; /* what each row attends to */
} scene;

static void scene_forward(scene *s)
{
    ck_good(tensors_forward(&s->t, s->ctx, &s->params));
}

static void scene_backward(scene *s)
{
    ck_good(tensors_backward(&s->t, s->ctx, &s->params));
}

static scene scene_begin(const way *w, const char *level)
{
    hyperattn_problem p = problem_for(w);
    hyper_counts counts;
    hyperattn_plan *plan;
    scene s = {.ctx = ctx_at(level, 1), .params = params_for(w), .t = tensors_new(&p, AT_END)};
    tensors_fill(&s.t, FILL_GAUSS, 6);
    tensors_fill_dout(&s.t, 6);
    ck_ok(hyperattn_plan_create(&plan, s.ctx, &p, &s.params));
    s.seen = w->method == HYPERATTN_EXACT ? pattern_exact(&s.t)
                                          : hyper_pattern(&s.t, plan, &counts);
    ck_assert(w->method == HYPERATTN_EXACT || counts.ambiguous == 0);
    hyperattn_plan_destroy(plan);
    scene_forward(&s);
    return s;
}

static void scene_end(scene *s)
{
    pattern_free(&s->seen);
    tensors_free(&s->t);
    hyperattn_ctx_destroy(s->ctx);
}

static void check_against_oracle(const scene *s, double loosen, const char *what)
{
    grad_oracle g = grad_oracle_of(&s->t, &s->seen, NULL);
    ck_good_at(grad_compare(&g, &s->t, GRAD_F32, loosen), "%s", what);
    grad_oracle_free(&g);
}

/* ---- slopes ---------------------------------------------------------------------------------- */

static double loss_of(const tensors *t)
{
    double loss = 0;
    for (int64_t at = 0; at < t->elements[T_OUT]; at++) /* packed */
        loss += element_get(t->mem[T_OUT].data, at, t->full.dtype) *
                element_get(t->mem[T_DOUT].data, at, t->full.dtype);
    return loss;
}

/* The loss where q, k or v has moved by step times a random direction; along it the gradient. */
static double moved_loss(scene *s, int part, double step, double *along)
{
    float *x = (float *)s->t.mem[part].data;
    const float *slope = (const float *)s->t.mem[T_DQ + part].data;
    size_t size = s->t.mem[part].size;
    float *before = memcpy(malloc(size), x, size);
    rng r = rng_new((uint64_t)part);
    *along = 0;
    for (int64_t at = 0; at < s->t.elements[part]; at++) {
        double direction = rng_gauss(&r);
        x[at] = (float)((double)x[at] + step * direction);
        *along += direction * (double)slope[at];
    }
    scene_forward(s);
    memcpy(x, before, size);
    free(before);
    return loss_of(&s->t);
}

START_TEST(gradients_are_the_slopes_of_forward)
{
    const double step = 2e-3; /* large beside the rounding of a loss in f32 */
    for (int w = 0; w < COUNT(ways); w++) {
        scene s = scene_begin(&ways[w], levels[_i]);
        scene_backward(&s);
        for (int part = 0; part < 3; part++) {
            double along, high = moved_loss(&s, part, step, &along);
            double low = moved_loss(&s, part, -step, &along), slope = (high - low) / (2 * step);
            ck_assert_msg(fabs(slope - along) < 3e-3 * (1 + fabs(along)),
                          "%s: the loss moves by %.6g along q, k or v (%d), d says %.6g",
                          ways[w].name, slope, part, along);
        }
        scene_end(&s);
    }
}
END_TEST

/* ---- zeros ----------------------------------------------------------------------------------- */

static void check_zero_row(const tensors *t, operand which, int64_t b, int64_t h, int64_t i,
                           const char *what)
{
    static const char zeros[64 * 4];
    size_t size = dtype_size(t->full.dtype);
    const unsigned char *row = t->mem[which].data + (size_t)tensors_at(t, which, b, h, i) * size;
    ck_assert_msg(memcmp(row, zeros, (size_t)tensors_dim(t, which) * size) == 0,
                  "%s: row %lld of head %lld, which none sees, has gradient %.9g", what,
                  (long long)i, (long long)h, tensors_get(t, which, b, h, i, 0));
}

/* Keys that no row of the group attends to have a gradient of exactly +0. Returns how many. */
static int64_t check_unseen(const scene *s, const char *what)
{
    const tensors *t = &s->t;
    int64_t group = t->full.nheads / t->full.nheads_kv, found = 0;
    for (int64_t kv = 0; kv < t->full.nheads_kv; kv++) {
        char *seen = calloc((size_t)t->full.seqlen_k, 1);
        for (int64_t h = kv * group; h < (kv + 1) * group; h++)
            for (int64_t i = 0; i < t->full.seqlen_q; i++) {
                const pattern_row *row = &s->seen.rows[tensors_row(t, 0, h, i)];
                for (int64_t e = 0; e < row->nentries; e++)
                    seen[row->entries[e].key] = 1;
            }
        for (int64_t j = 0; j < t->full.seqlen_k; j++)
            if (!seen[j]) {
                check_zero_row(t, T_DK, 0, kv, j, what);
                check_zero_row(t, T_DV, 0, kv, j, what);
                found++;
            }
        free(seen);
    }
    return found;
}

START_TEST(keys_that_no_row_attends_to_have_no_gradient)
{
    int64_t found = 0;
    for (int w = 0; w < COUNT(ways); w++) {
        scene s = scene_begin(&ways[w], levels[_i]);
        scene_backward(&s);
        found += check_unseen(&s, ways[w].name);
        scene_end(&s);
    }
    for (int w = 0; w < COUNT(hashed_ways); w++) {
        scene s = scene_begin(&hashed_ways[w], levels[_i]);
        scene_backward(&s);
        found += check_unseen(&s, hashed_ways[w].name);
        scene_end(&s);
    }
    ck_assert_int_gt(found, 100);
}
END_TEST

/* Sequences of keys without queries, and of queries without keys. */
START_TEST(sequences_without_a_partner_have_no_gradient)
{
    static const int64_t cu_q[] = {0, 0, 70, 90, 90}, cu_k[] = {0, 80, 150, 150, 230};
    for (int method = HYPERATTN_EXACT; method <= HYPERATTN_HYPER; method++)
        for (int causal = 0; causal < 2; causal++) {
            hyperattn_problem p = problem_of(2, 70, 8);
            p.seqlen_k = 80;
            p.batch = 4;
            p.causal = causal;
            p.cu_seqlens_q = cu_q;
            p.cu_seqlens_k = cu_k;
            const way w = {.method = (hyperattn_method)method};
            hyperattn_params params = params_for(&w);
            tensors t = tensors_new(&p, AT_END);
            tensors_fill(&t, FILL_GAUSS, 2);
            tensors_fill_dout(&t, 2);
            ck_good(tensors_run(&t, &params, levels[_i], 1));
            ck_good(tensors_run_backward(&t, &params, levels[_i], 1));
            for (int64_t h = 0; h < 2; h++) {
                for (int64_t i = 0; i < 20; i++)
                    check_zero_row(&t, T_DQ, 2, h, i, "queries without keys");
                for (int64_t j = 0; j < 160; j++) {
                    check_zero_row(&t, T_DK, j % 2 ? 3 : 0, h, j / 2, "keys without queries");
                    check_zero_row(&t, T_DV, j % 2 ? 3 : 0, h, j / 2, "keys without queries");
                }
            }
            tensors_free(&t);
        }
}
END_TEST

/* Such a row adds nothing to the keys either, whatever its numbers are. */
START_TEST(rows_that_see_no_key_have_no_gradient)
{
    for (int method = HYPERATTN_EXACT; method <= HYPERATTN_HYPER; method++)
        for (int bad = 0; bad < 2; bad++) {
            const way w = {"", (hyperattn_method)method, HYPERATTN_HEAVY_NONE, .nq = 170, .nk = 90,
                           .causal = 1};
            scene s = scene_begin(&w, levels[_i]);
            for (int64_t h = 0; h < 4 && bad; h++)
                for (int64_t i = 0; i < 80; i++) {
                    tensors_set_row(&s.t, T_Q, 0, h, i, i % 2 ? NAN : INFINITY);
                    tensors_set_row(&s.t, T_DOUT, 0, h, i, i % 3 ? NAN : INFINITY);
                }
            scene_forward(&s);
            scene_backward(&s);
            for (int64_t h = 0; h < 4; h++)
                for (int64_t i = 0; i < 80; i++)
                    check_zero_row(&s.t, T_DQ, 0, h, i, "a row without keys");
            check_against_oracle(&s, 1, "rows without keys");
            scene_end(&s);
        }
}
END_TEST

START_TEST(without_dout_there_is_no_gradient)
{
    for (int w = 0; w < COUNT(ways); w++) {
        scene s = scene_begin(&ways[w], levels[_i]);
        memset(s.t.mem[T_DOUT].data, 0, s.t.mem[T_DOUT].size);
        scene_backward(&s);
        for (int which = T_DQ; which <= T_DV; which++)
            for (int64_t at = 0; at < s.t.elements[which]; at++)
                ck_assert_msg(element_get(s.t.mem[which].data, at, HYPERATTN_F32) == 0,
                              "%s: a gradient without dout", ways[w].name);
        scene_end(&s);
    }
}
END_TEST

/* ---- invariances ----------------------------------------------------------------------------- */

/* ||x - y|| / ||y|| of what dq or dk is and was. */
static double moved(const tensors *t, int part, const saved *before)
{
    double difference = 0, size = 0;
    for (int64_t at = 0; at < t->elements[T_DQ + part]; at++) {
        double was = element_get(before->gradient[part], at, t->full.dtype);
        double is = element_get(t->mem[T_DQ + part].data, at, t->full.dtype);
        difference += (is - was) * (is - was);
        size += was * was;
    }
    return sqrt(difference / size);
}

/* The scores' gradients of a row add up to 0, so a constant added to all values moves neither dq
 * nor dk. */
START_TEST(a_constant_in_v_moves_neither_dq_nor_dk)
{
    for (int w = 0; w < COUNT(ways); w++) {
        scene s = scene_begin(&ways[w], levels[_i]);
        scene_backward(&s);
        saved before = tensors_save(&s.t);
        float *v = (float *)s.t.mem[T_V].data;
        for (int64_t at = 0; at < s.t.elements[T_V]; at++)
            v[at] += 3;
        scene_forward(&s);
        scene_backward(&s);
        for (int part = 0; part < 2; part++)
            ck_assert_msg(moved(&s.t, part, &before) < 2e-5, "%s: d%c moved by %.3g", ways[w].name,
                          "qk"[part], moved(&s.t, part, &before));
        saved_free(&before);
        scene_end(&s);
    }
}
END_TEST

/* What forward gave is not computed again: another lse and out, as those of a merge with other
 * keys, give the gradients of that. A row whose lse is -inf gives nothing. */
static void check_given(const way *w, const char *level)
{
    scene s = scene_begin(w, level);
    float *lse = (float *)s.t.lse.data;
    rng r = rng_new(4);
    for (int64_t row = 0; row < s.t.rows; row++)
        lse[row] = row % 17 ? lse[row] + (float)(2 * rng_uniform(&r)) : -INFINITY;
    for (int64_t at = 0; at < s.t.elements[T_OUT]; at++)
        element_put(s.t.mem[T_OUT].data, at, s.t.full.dtype,
                    element_get(s.t.mem[T_OUT].data, at, s.t.full.dtype) + rng_gauss(&r));
    scene_backward(&s);
    if (w->dtype == HYPERATTN_F32)
        check_against_oracle(&s, 1, w->name);
    scene_end(&s);
}

START_TEST(out_and_lse_are_taken_as_given)
{
    for (int w = 0; w < COUNT(ways); w++)
        check_given(&ways[w], levels[_i]);
    for (int w = 0; w < COUNT(hashed_ways); w++)
        check_given(&hashed_ways[w], levels[_i]);
}
END_TEST

/* ---- parts of the keys ----------------------------------------------------------------------- */

/* A problem of the same queries with keys [from, to) of whole, and its result. */
static tensors part_of(const tensors *whole, int64_t from, int64_t to, hyperattn_ctx *ctx,
                       const hyperattn_params *params)
{
    hyperattn_problem p = whole->full;
    p.seqlen_k = to - from;
    memset(p.k_stride, 0, sizeof p.k_stride);
    memset(p.v_stride, 0, sizeof p.v_stride);
    tensors part = tensors_new(&p, AT_END);
    tensors_fill_dout(&part, 0);
    memcpy(part.mem[T_Q].data, whole->mem[T_Q].data, part.mem[T_Q].size);
    memcpy(part.mem[T_DOUT].data, whole->mem[T_DOUT].data, part.mem[T_DOUT].size);
    for (int which = T_K; which <= T_V; which++)
        for (int64_t h = 0; h < p.nheads_kv; h++)
            for (int64_t j = from; j < to; j++)
                for (int64_t c = 0; c < tensors_dim(&part, (operand)which); c++)
                    tensors_put(&part, (operand)which, 0, h, j - from, c,
                                tensors_get(whole, (operand)which, 0, h, j, c));
    ck_good(tensors_forward(&part, ctx, params));
    return part;
}

/* The gradients of keys [from, ...) go to their places in whole, those of the queries are added. */
static void add_part(tensors *whole, const tensors *part, int64_t from)
{
    for (int which = T_DQ; which <= T_DV; which++)
        for (int64_t h = 0; h < tensors_heads(whole, (operand)which); h++)
            for (int64_t i = 0; i < tensors_nrows(part, (operand)which, 0); i++)
                for (int64_t c = 0; c < tensors_dim(whole, (operand)which); c++) {
                    int64_t to = which == T_DQ ? i : from + i;
                    double x = tensors_get(part, (operand)which, 0, h, i, c);
                    if (which == T_DQ && from > 0)
                        x += tensors_get(whole, T_DQ, 0, h, i, c);
                    tensors_put(whole, (operand)which, 0, h, to, c, x);
                }
}

/* Two plans for the two parts of the keys, as in a ring: each gets the merged out and lse. */
START_TEST(parts_of_the_keys_add_up)
{
    static const int64_t cuts[] = {1, 70, 109};
    const way w = ways[0];
    for (int s = 0; s < COUNT(cuts); s++) {
        scene whole = scene_begin(&w, levels[_i]);
        int64_t from[] = {0, cuts[s], w.nk};
        tensors part[2];
        for (int x = 0; x < 2; x++)
            part[x] = part_of(&whole.t, from[x], from[x + 1], whole.ctx, &whole.params);
        hyperattn_plan *plan;
        ck_ok(hyperattn_plan_create(&plan, whole.ctx, &whole.t.problem, &whole.params));
        ck_ok(hyperattn_merge(plan, part[0].mem[T_OUT].data, (float *)part[0].lse.data,
                              part[1].mem[T_OUT].data, (const float *)part[1].lse.data));
        hyperattn_plan_destroy(plan);
        memcpy(part[1].mem[T_OUT].data, part[0].mem[T_OUT].data, part[0].mem[T_OUT].size);
        memcpy(part[1].lse.data, part[0].lse.data, part[0].lse.size);
        for (int x = 0; x < 2; x++) {
            ck_good(tensors_backward(&part[x], whole.ctx, &whole.params));
            add_part(&whole.t, &part[x], from[x]);
            tensors_free(&part[x]);
        }
        check_against_oracle(&whole, 2, "parts");
        scene_end(&whole);
    }
}
END_TEST

/* ---- NaN ------------------------------------------------------------------------------------- */

/* Gradients that a bad number in row `bad` of an operand may reach: the rows themselves, or those
 * that attend to the key; and every key that these attend to. They are set to what clean says, so
 * that the comparison is about all the others. */
static void forgive(scene *s, const grad_oracle *clean, operand which, int64_t h, int64_t bad)
{
    tensors *t = &s->t;
    int64_t group = t->full.nheads / t->full.nheads_kv;
    for (int64_t head = 0; head < t->full.nheads; head++)
        for (int64_t i = 0; i < t->full.seqlen_q; i++) {
            const pattern_row *row = &s->seen.rows[tensors_row(t, 0, head, i)];
            int reached = (which == T_Q || which == T_DOUT) && head == h && i == bad;
            for (int64_t e = 0; e < row->nentries; e++)
                reached |= (which == T_K || which == T_V) && head / group == h &&
                           row->entries[e].key == bad;
            for (int part = 0; part < 3 && reached; part++)
                for (int64_t e = 0; e < (part ? row->nentries : 1); e++) {
                    operand to = (operand)(T_DQ + part);
                    int64_t at = part ? tensors_at(t, to, 0, head / group, row->entries[e].key)
                                      : tensors_at(t, to, 0, head, i);
                    for (int64_t c = 0; c < tensors_dim(t, to); c++)
                        element_put(t->mem[to].data, at + c, t->full.dtype,
                                    clean->value[part][at + c]);
                }
        }
}

/* One bad number. NaN: the oracle says which gradients become NaN; Inf: it reaches no others. */
static void check_poison(const way *w, operand which, double poison, int64_t bad, const char *level)
{
    scene s = scene_begin(w, level);
    char what[128];
    snprintf(what, sizeof what, "%s, %s: %g in row %lld of operand %d", level, w->name, poison,
             (long long)bad, which);
    grad_oracle clean = {0};
    if (!isnan(poison))
        clean = grad_oracle_of(&s.t, &s.seen, NULL);
    tensors_put(&s.t, which, 0, 1, bad, 5, poison);
    scene_forward(&s);
    scene_backward(&s);
    if (isnan(poison))
        check_against_oracle(&s, 1, what);
    else {
        forgive(&s, &clean, which, 1, bad);
        ck_good_at(grad_compare(&clean, &s.t, GRAD_F32, 2), "%s", what);
    }
    grad_oracle_free(&clean);
    scene_end(&s);
}

START_TEST(a_bad_number_goes_no_further_than_it_must)
{
    static const operand operands[] = {T_Q, T_K, T_V, T_DOUT};
    static const double poisons[] = {NAN, INFINITY};
    for (int w = 0; w < COUNT(ways); w++)
        for (int o = 0; o < COUNT(operands); o++)
            for (int p = 0; p < COUNT(poisons); p++) {
                int is_key = operands[o] == T_K || operands[o] == T_V;
                int64_t n = is_key ? ways[w].nk : ways[w].nq, step = emulated() ? 109 : 53;
                for (int64_t bad = (7 * w + 29 * o) % 53; bad < n; bad += step)
                    check_poison(&ways[w], operands[o], poisons[p], bad, levels[_i]);
            }
}
END_TEST

/* Several blocks of rows and keys: some hold a bad number, and others do not. */
START_TEST(a_nan_in_one_of_many_blocks)
{
    static const way w = {"exact causal, many blocks", HYPERATTN_EXACT, .nq = 600, .nk = 640,
                          .causal = 1};
    static const operand operands[] = {T_Q, T_K, T_V, T_DOUT};
    for (int o = 0; o < COUNT(operands); o++)
        check_poison(&w, operands[o], NAN, 411, levels[_i]);
}
END_TEST

int main(void)
{
    int n = topic_levels();
    if (emulated())
        puts("reduced: a bad number in every 109th row, not in every 53rd");
    TCase *topic = topic_begin("backward_laws");
    tcase_add_loop_test(topic, gradients_are_the_slopes_of_forward, 0, n);
    tcase_add_loop_test(topic, keys_that_no_row_attends_to_have_no_gradient, 0, n);
    tcase_add_loop_test(topic, sequences_without_a_partner_have_no_gradient, 0, n);
    tcase_add_loop_test(topic, rows_that_see_no_key_have_no_gradient, 0, n);
    tcase_add_loop_test(topic, without_dout_there_is_no_gradient, 0, n);
    tcase_add_loop_test(topic, a_constant_in_v_moves_neither_dq_nor_dk, 0, n);
    tcase_add_loop_test(topic, out_and_lse_are_taken_as_given, 0, n);
    tcase_add_loop_test(topic, parts_of_the_keys_add_up, 0, n);
    tcase_add_loop_test(topic, a_bad_number_goes_no_further_than_it_must, 0, n);
    tcase_add_loop_test(topic, a_nan_in_one_of_many_blocks, 0, n);
    return topic_end();
}
