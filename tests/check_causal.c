/* SPDX-License-Identifier: Apache-2.0
 *
 * What HyperAttention promises bit by bit: no row depends on a later key or value, with
 * strict_causal none depends on a later query either, a NaN stays where it belongs, no input
 * crashes, and the seed decides everything that is random.
 */
#include <math.h>
#include <string.h>

#include "checkmain.h"
#include "tensors.h"

typedef struct variant {
    const char *name;
    int64_t nq, nk;
    int causal, strict, sinks, window, masked;
    hyperattn_heavy heavy;
    hyperattn_sampling sampling;
    hyperattn_dtype dtype;
    float kappa_cap;
} variant;

/* First the causal ones, of them last the strict ones, then those without a mask. */
enum { FIRST_STRICT = 10, FIRST_UNMASKED = 16 };

static const variant variants[] = {
    {"causal", 230, 230, .causal = 1},
    {"causal, leading keys", 150, 301, .causal = 1},
    {"causal, rows without keys", 301, 150, .causal = 1},
    {"causal, no block", 230, 230, .causal = 1, .heavy = HYPERATTN_HEAVY_NONE},
    {"causal, sinks and window", 230, 230, .causal = 1, .sinks = 6, .window = 33},
    {"causal bf16", 230, 230, .causal = 1, .dtype = HYPERATTN_BF16},
    {"causal f16", 230, 230, .causal = 1, .dtype = HYPERATTN_F16, .sinks = 3},
    {"causal vnorm", 230, 230, .causal = 1, .sampling = HYPERATTN_SAMPLING_VNORM, .window = 7},
    {"causal capped", 230, 230, .causal = 1, .kappa_cap = 2},
    {"causal masked", 230, 230, .causal = 1, .masked = 1},
    {"strict", 230, 230, .causal = 1, .strict = 1},
    {"strict, leading keys", 150, 301, .causal = 1, .strict = 1},
    {"strict, sinks and window", 231, 231, .causal = 1, .strict = 1, .sinks = 6, .window = 33},
    {"strict vnorm", 230, 230, .causal = 1, .strict = 1, .sampling = HYPERATTN_SAMPLING_VNORM},
    {"strict bf16", 230, 230, .causal = 1, .strict = 1, .dtype = HYPERATTN_BF16},
    {"strict, no block", 230, 230, .causal = 1, .strict = 1, .heavy = HYPERATTN_HEAVY_NONE},
    {"all", 230, 230, .causal = 0},
    {"all, sinks", 150, 231, .sinks = 6},
    {"all vnorm", 230, 230, .sampling = HYPERATTN_SAMPLING_VNORM},
    {"all capped", 230, 230, .kappa_cap = 2},
    {"all masked", 230, 230, .masked = 1},
    {"all, no block", 230, 230, .heavy = HYPERATTN_HEAVY_NONE},
};

/* Query blocks of 40 rows and key blocks of 32; each lists some early key blocks. */
static const int64_t row_start[] = {0, 1, 2, 4, 6, 8, 10, 12, 14};
static const int64_t key_blocks[] = {0, 0, 0, 1, 1, 2, 0, 3, 2, 4, 1, 3, 0, 5};

static hyperattn_params variant_params(const variant *v, hyperattn_block_mask *mask)
{
    hyperattn_params params;
    hyperattn_params_init(&params);
    params.method = HYPERATTN_HYPER;
    params.heavy = v->heavy;
    params.sampling = v->sampling;
    params.block_size = 16;
    params.sample_size = 12;
    params.min_seq_len = 30;
    params.num_sinks = v->sinks;
    params.window = v->window;
    params.strict_causal = v->strict;
    params.kappa_cap = v->kappa_cap;
    params.seed = 3;
    hyperattn_block_mask_init(mask);
    mask->query_block = 40;
    mask->key_block = 32;
    mask->row_start = row_start;
    mask->key_blocks = key_blocks;
    if (v->masked)
        params.block_mask = mask;
    return params;
}

/* A problem of 4 query heads over 2 key heads, computed once. */
typedef struct subject {
    const variant *v;
    hyperattn_block_mask mask;
    hyperattn_params params;
    tensors t;
    void *inputs[3]; /* copies of q, k and v as they were first */
    saved before;
} subject;

static void compute(subject *s)
{
    ck_good_at(tensors_run(&s->t, &s->params, NULL, 1), "%s", s->v->name);
}

static void subject_begin(subject *s, const variant *v)
{
    s->v = v;
    s->params = variant_params(v, &s->mask);
    hyperattn_problem p = problem_of(4, v->nq, 24);
    p.nheads_kv = 2;
    p.seqlen_k = v->nk;
    p.head_dim_v = 18;
    p.causal = v->causal;
    p.dtype = v->dtype;
    s->t = tensors_new(&p, AT_END);
    tensors_fill(&s->t, FILL_CLUSTERED, 17);
    for (int which = T_Q; which <= T_V; which++) {
        s->inputs[which] = malloc(s->t.mem[which].size);
        memcpy(s->inputs[which], s->t.mem[which].data, s->t.mem[which].size);
    }
    compute(s);
    s->before = tensors_save(&s->t);
}

/* Takes back what was written into the inputs. */
static void subject_restore(subject *s)
{
    for (int which = T_Q; which <= T_V; which++)
        memcpy(s->t.mem[which].data, s->inputs[which], s->t.mem[which].size);
}

static void subject_end(subject *s)
{
    for (int which = T_Q; which <= T_V; which++)
        free(s->inputs[which]);
    saved_free(&s->before);
    tensors_free(&s->t);
}

/* ---- causality ----------------------------------------------------------------------------- */

static const double poisons[] = {NAN, INFINITY, -INFINITY, 3e4, 0};

/* Overwrites the rows of one operand from `from` on. kind 0: other random numbers; 1: things that
 * spread. */
static void overwrite(subject *s, operand which, int64_t from, int kind)
{
    rng r = rng_new((uint64_t)from);
    for (int64_t h = 0; h < tensors_heads(&s->t, which); h++)
        for (int64_t i = from < 0 ? 0 : from; i < tensors_nrows(&s->t, which, 0); i++)
            for (int64_t c = 0; c < tensors_dim(&s->t, which); c++)
                tensors_put(&s->t, which, 0, h, i, c,
                            kind ? poisons[(i + c * 3) % COUNT(poisons)] : 5 * rng_gauss(&r));
}

/* Rows on either side of leaf and rectangle bounds. */
static const int64_t last_rows[] = {0, 1, 15, 31, 63, 64, 65, 100, 127, 128, 149, 191, 192, 228};

static void check_rows_ignore_later(const variant *v, int queries_too)
{
    subject s;
    subject_begin(&s, v);
    for (int e = 0; e < COUNT(last_rows) && last_rows[e] < v->nq - 1; e++)
        for (int kind = 0; kind < 2; kind++) {
            int64_t last = last_rows[e], last_key = last + v->nk - v->nq;
            overwrite(&s, T_K, last_key + 1, kind);
            overwrite(&s, T_V, last_key + 1, kind);
            if (queries_too)
                overwrite(&s, T_Q, last + 1, kind);
            compute(&s);
            ck_good_at(tensors_same_bits(&s.t, &s.before, last + 1),
                       "%s, rows after %lld replaced, kind %d", v->name, (long long)last, kind);
            subject_restore(&s);
        }
    subject_end(&s);
}

START_TEST(rows_ignore_later_keys_and_values)
{
    ck_assert_int_eq(variants[_i].causal, 1);
    check_rows_ignore_later(&variants[_i], 0);
}
END_TEST

START_TEST(strict_rows_ignore_later_queries_too)
{
    ck_assert_int_eq(variants[_i].strict, 1);
    check_rows_ignore_later(&variants[_i], 1);
}
END_TEST

/* ---- NaN, Inf and any bits ----------------------------------------------------------------- */

/* A NaN in one query row: that row of out is NaN, and all others are not. */
START_TEST(nan_in_a_query_row_stays_there)
{
    const variant *v = &variants[_i];
    int64_t blind = v->causal && v->nq > v->nk ? v->nq - v->nk : 0;
    subject s;
    subject_begin(&s, v);
    for (int64_t bad = blind; bad < v->nq; bad += 41) {
        tensors_put(&s.t, T_Q, 0, 2, bad, 3, NAN);
        compute(&s);
        for (int64_t h = 0; h < 4; h++)
            for (int64_t i = 0; i < v->nq; i++)
                for (int64_t c = 0; c < 18; c++) {
                    double out = tensors_get(&s.t, T_OUT, 0, h, i, c);
                    ck_assert_msg(!isnan(out) == !(h == 2 && i == bad),
                                  "%s: NaN in row %lld of head 2, row %lld of head %lld gives %g",
                                  v->name, (long long)bad, (long long)i, (long long)h, out);
                }
        subject_restore(&s);
    }
    subject_end(&s);
}
END_TEST

/* Bad keys and values: rows that cannot see them stay as they are; the others do not crash. */
START_TEST(bad_keys_stay_in_their_key_head)
{
    const variant *v = &variants[_i];
    subject s;
    subject_begin(&s, v);
    for (int e = 0; e < 3; e++)
        for (int which = T_K; which <= T_V; which++) {
            for (int64_t j = 0; j < v->nk; j += 19)
                tensors_put(&s.t, (operand)which, 0, 1, j, 2, poisons[e]);
            compute(&s);
            /* heads 2 and 3 read key head 1: compare the first two alone */
            int64_t half = tensors_at(&s.t, T_OUT, 0, 2, 0);
            ck_assert_mem_eq(s.t.mem[T_OUT].data, s.before.out,
                             (size_t)half * dtype_size(v->dtype));
            subject_restore(&s);
        }
    subject_end(&s);
}
END_TEST

START_TEST(no_bit_pattern_crashes)
{
    const variant *v = &variants[_i];
    subject s;
    subject_begin(&s, v);
    for (uint64_t seed = 0; seed < 6; seed++) {
        rng r = rng_new(seed);
        for (int which = T_Q; which <= T_V; which++)
            for (size_t byte = 0; byte < s.t.mem[which].size; byte++)
                s.t.mem[which].data[byte] = (unsigned char)(rng_next(&r) >> 40);
        compute(&s);
    }
    for (int e = 0; e < 3; e++) { /* nothing else but one value */
        for (int which = T_Q; which <= T_V; which++)
            for (int64_t at = 0; at < s.t.elements[which]; at++)
                element_put(s.t.mem[which].data, at, v->dtype, poisons[e]);
        compute(&s);
    }
    subject_end(&s);
}
END_TEST

/* All keys equal, or all values zero: no hash, no norm and no variance to go by. */
START_TEST(degenerate_input_is_fine)
{
    const variant *v = &variants[_i];
    subject s;
    subject_begin(&s, v);
    for (int64_t h = 0; h < 2; h++)
        for (int64_t j = 0; j < v->nk; j++) {
            tensors_set_row(&s.t, T_K, 0, h, j, 0.25);
            tensors_set_row(&s.t, T_V, 0, h, j, 0);
        }
    compute(&s);
    for (int64_t h = 0; h < 4; h++)
        for (int64_t i = 0; i < v->nq; i++)
            for (int64_t c = 0; c < 18; c++)
                ck_assert_double_eq(tensors_get(&s.t, T_OUT, 0, h, i, c), 0);
    subject_end(&s);
}
END_TEST

/* ---- seed ---------------------------------------------------------------------------------- */

START_TEST(the_seed_decides)
{
    static const uint64_t others[] = {0, 4, UINT64_C(3) << 32, UINT64_MAX};
    const variant *v = &variants[_i];
    subject s;
    subject_begin(&s, v);
    compute(&s);
    ck_good(tensors_same_bits(&s.t, &s.before, v->nq));
    for (int e = 0; e < COUNT(others); e++) {
        s.params.seed = others[e];
        compute(&s);
        ck_assert_msg(tensors_same_bits(&s.t, &s.before, v->nq) != NULL,
                      "%s: seed %llu gives what the seed before it gave", v->name,
                      (unsigned long long)others[e]);
        saved_free(&s.before);
        s.before = tensors_save(&s.t);
    }
    subject_end(&s);
}
END_TEST

/* The same tensors in every head and sequence: only the draws can tell the results apart. */
START_TEST(each_head_has_draws_of_its_own)
{
    const variant *v = &variants[_i];
    hyperattn_block_mask mask;
    hyperattn_params params = variant_params(v, &mask);
    hyperattn_problem p = problem_of(2, v->nq, 24);
    p.batch = 2;
    p.seqlen_k = v->nk;
    p.causal = v->causal;
    p.dtype = v->dtype;
    tensors t = tensors_new(&p, AT_END);
    tensors_fill(&t, FILL_CLUSTERED, 17);
    for (int which = T_Q; which <= T_V; which++) {
        size_t head = t.mem[which].size / 4;
        for (int copy = 1; copy < 4; copy++)
            memcpy(t.mem[which].data + (size_t)copy * head, t.mem[which].data, head);
    }
    ck_good(tensors_run(&t, &params, NULL, 1));
    const unsigned char *out = t.mem[T_OUT].data;
    size_t head = t.mem[T_OUT].size / 4;
    for (size_t a = 0; a < 4; a++)
        for (size_t b = 0; b < a; b++)
            ck_assert_msg(memcmp(out + a * head, out + b * head, head) != 0,
                          "%s: heads %zu and %zu of all are the same", v->name, b, a);
    tensors_free(&t);
}
END_TEST

int main(void)
{
    TCase *topic = topic_begin("causal");
    tcase_add_loop_test(topic, rows_ignore_later_keys_and_values, 0, FIRST_UNMASKED);
    tcase_add_loop_test(topic, strict_rows_ignore_later_queries_too, FIRST_STRICT,
                        FIRST_UNMASKED);
    tcase_add_loop_test(topic, nan_in_a_query_row_stays_there, 0, COUNT(variants));
    tcase_add_loop_test(topic, bad_keys_stay_in_their_key_head, 0, COUNT(variants));
    tcase_add_loop_test(topic, no_bit_pattern_crashes, 0, COUNT(variants));
    tcase_add_loop_test(topic, degenerate_input_is_fine, 0, COUNT(variants));
    tcase_add_loop_test(topic, the_seed_decides, 0, COUNT(variants));
    tcase_add_loop_test(topic, each_head_has_draws_of_its_own, 0, COUNT(variants));
    return topic_end();
}
