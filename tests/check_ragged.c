/* SPDX-License-Identifier: Apache-2.0
 *
 * Sequences of very unlike lengths in one batch: each gets the bits that a call of its own gives,
 * forward and backward. And many query heads on one key head, backward, against float64.
 */
#include <string.h>

#include "checkmain.h"
#include "grad_oracle.h"

enum { HEADS = 4, KEY_HEADS = 2, DIM = 8, DIM_V = 12 };

/* ---- a batch and its sequences --------------------------------------------------------------- */

typedef struct batch {
    const char *name;
    int64_t n;
    int64_t nq[8], nk[8];
} batch;

static const batch batches[] = {
    {"unlike", 6, {0, 1, 8, 300, 5000, 2}, {3, 1, 8, 300, 5000, 700}},
    {"the longest first", 5, {3000, 1, 0, 40, 16}, {2500, 2000, 9, 0, 17}},
    {"the longest last", 7, {5, 1, 33, 257, 64, 256, 1500}, {5, 6000, 1, 256, 900, 300, 1700}},
    {"all alike", 4, {65, 65, 65, 65}, {65, 65, 65, 65}},
};

static const batch short_batch = {"short", 5, {0, 1, 8, 300, 700}, {0, 9, 5, 300, 650}};

/* The same rows, in the one array of a batch and in that of a sequence. */
static void copy_rows(tensors *to, const tensors *from, operand which, int64_t b)
{
    size_t size = dtype_size(from->full.dtype), row = (size_t)tensors_dim(from, which) * size;
    for (int64_t h = 0; h < tensors_heads(from, which); h++)
        for (int64_t i = 0; i < tensors_nrows(from, which, b); i++)
            memcpy(to->mem[which].data + (size_t)tensors_at(to, which, 0, h, i) * size,
                   from->mem[which].data + (size_t)tensors_at(from, which, b, h, i) * size, row);
}

static const char *same_rows(const tensors *t, const tensors *all, operand which, int64_t b)
{
    size_t size = dtype_size(all->full.dtype), row = (size_t)tensors_dim(all, which) * size;
    for (int64_t h = 0; h < tensors_heads(all, which); h++)
        for (int64_t i = 0; i < tensors_nrows(all, which, b); i++)
            if (memcmp(t->mem[which].data + (size_t)tensors_at(t, which, 0, h, i) * size,
                       all->mem[which].data + (size_t)tensors_at(all, which, b, h, i) * size, row))
                return failure("head %lld, row %lld of operand %d has other bits", (long long)h,
                               (long long)i, which);
    return NULL;
}

static const char *same_lse(const tensors *t, const tensors *all, int64_t b)
{
    for (int64_t h = 0; h < HEADS; h++)
        for (int64_t i = 0; i < tensors_nrows(all, T_Q, b); i++) {
            float got = tensors_lse(t, 0, h, i), want = tensors_lse(all, b, h, i);
            if (memcmp(&got, &want, sizeof got) != 0)
                return failure("lse of head %lld, row %lld has other bits", (long long)h,
                               (long long)i);
        }
    return NULL;
}

typedef struct way {
    const char *level;
    int causal, nthreads;
    hyperattn_dtype dtype;
} way;

static const char *run_both(tensors *t, const hyperattn_params *params, const way *w, int nthreads)
{
    const char *why = tensors_run(t, params, w->level, nthreads);
    return why ? why : tensors_run_backward(t, params, w->level, nthreads);
}

/* Sequence b on its own; one without keys or rows is a ragged batch of one, for a plain problem
 * takes 0 keys as the default. */
static const char *check_alone(const tensors *all, int64_t b, const hyperattn_params *params,
                               const way *w)
{
    const int64_t cu_q[] = {0, tensors_nrows(all, T_Q, b)};
    const int64_t cu_k[] = {0, tensors_nrows(all, T_K, b)};
    hyperattn_problem p = all->problem;
    p.batch = 1;
    p.seqlen_q = cu_q[1];
    p.seqlen_k = cu_k[1];
    p.cu_seqlens_q = p.cu_seqlens_k = NULL;
    if (cu_q[1] == 0 || cu_k[1] == 0) {
        p.seqlen_q = p.seqlen_k = 1 + cu_q[1] + cu_k[1];
        p.cu_seqlens_q = cu_q;
        p.cu_seqlens_k = cu_k;
    }
    tensors t = tensors_new(&p, AT_END);
    tensors_fill_dout(&t, 1);
    for (int which = T_Q; which <= T_V; which++)
        copy_rows(&t, all, (operand)which, b);
    copy_rows(&t, all, T_DOUT, b);
    const char *why = run_both(&t, params, w, 1);
    why = why ? why : same_rows(&t, all, T_OUT, b);
    why = why ? why : same_lse(&t, all, b);
    for (int which = T_DQ; which <= T_DV && !why; which++)
        why = same_rows(&t, all, (operand)which, b);
    tensors_free(&t);
    return why;
}

/* The first `alone` sequences of a batch against calls of their own. */
static void check_batch(const batch *x, const hyperattn_params *params, const way *w, int64_t alone)
{
    int64_t cu_q[9] = {0}, cu_k[9] = {0}, longest = 1;
    for (int64_t b = 0; b < x->n; b++) {
        cu_q[b + 1] = cu_q[b] + x->nq[b];
        cu_k[b + 1] = cu_k[b] + x->nk[b];
        longest = x->nq[b] > longest ? x->nq[b] : longest;
        longest = x->nk[b] > longest ? x->nk[b] : longest;
    }
    hyperattn_problem p = problem_of(HEADS, longest, DIM);
    p.nheads_kv = KEY_HEADS;
    p.head_dim_v = DIM_V;
    p.batch = x->n;
    p.causal = w->causal;
    p.dtype = w->dtype;
    p.cu_seqlens_q = cu_q;
    p.cu_seqlens_k = cu_k;
    tensors t = tensors_new(&p, AT_END);
    tensors_fill(&t, FILL_CLUSTERED, 4);
    tensors_fill_dout(&t, 4);
    ck_good_at(run_both(&t, params, w, w->nthreads), "%s", x->name);
    for (int64_t b = 0; b < alone; b++)
        ck_good_at(check_alone(&t, b, params, w), "%s %s, causal %d, sequence %lld", x->name,
                   dtype_name(w->dtype), w->causal, (long long)b);
    tensors_free(&t);
}

/* ---- exact ----------------------------------------------------------------------------------- */

START_TEST(each_sequence_has_the_bits_of_its_own_call)
{
    hyperattn_params params;
    hyperattn_params_init(&params);
    params.method = HYPERATTN_EXACT;
    for (int causal = 0; causal < 2; causal++) {
        const way w = {NULL, causal, 3, HYPERATTN_F32};
        check_batch(emulated() ? &short_batch : &batches[_i], &params, &w,
                    emulated() ? short_batch.n : batches[_i].n);
    }
}
END_TEST

START_TEST(at_every_level_and_in_every_type)
{
    const char *names[8];
    int nlevels = levels_here(names, COUNT(names));
    hyperattn_params params;
    hyperattn_params_init(&params);
    params.method = HYPERATTN_EXACT;
    for (int level = 0; level < nlevels; level++)
        for (int dtype = HYPERATTN_F32; dtype <= HYPERATTN_F16; dtype++) {
            const way w = {names[level], dtype % 2, 2, (hyperattn_dtype)dtype};
            check_batch(&short_batch, &params, &w, short_batch.n);
        }
}
END_TEST

/* ---- HYPER ----------------------------------------------------------------------------------- */

/* The random streams are numbered by the query heads of all sequences, so that no two sequences
 * draw alike; those of the first sequence have the numbers that its own call gives. */
START_TEST(the_first_sequence_draws_as_in_its_own_call)
{
    static const batch x = {"hyper", 4, {900, 1, 30, 1400}, {800, 1, 30, 1400}};
    hyperattn_params params;
    hyperattn_params_init(&params);
    params.method = HYPERATTN_HYPER;
    params.block_size = params.sample_size = 40;
    params.min_seq_len = 150;
    for (int causal = 0; causal < 2; causal++) {
        const way w = {NULL, causal, 3, HYPERATTN_F32};
        params.kappa_cap = causal ? 0 : 4;
        check_batch(&x, &params, &w, 1);
    }
}
END_TEST

/* Sequences no longer than min_seq_len are exact and draw nothing. */
START_TEST(short_causal_sequences_draw_nothing)
{
    hyperattn_params params;
    hyperattn_params_init(&params);
    params.method = HYPERATTN_HYPER;
    params.min_seq_len = 700;
    const way w = {NULL, 1, 2, HYPERATTN_F32};
    check_batch(&short_batch, &params, &w, short_batch.n);
}
END_TEST

/* ---- MULTIPOLE ------------------------------------------------------------------------------- */

/* Its sizes follow from those of the sequence, and not from the longest one's. */
START_TEST(each_sequence_has_its_own_recipe)
{
    hyperattn_params params;
    hyperattn_params_init(&params);
    params.method = HYPERATTN_MULTIPOLE;
    params.num_selected = 16;
    params.private_depth = 3;
    for (int causal = 0; causal < 2; causal++) {
        const way w = {NULL, causal, 3, HYPERATTN_F32};
        check_batch(emulated() ? &short_batch : &batches[_i], &params, &w,
                    emulated() ? short_batch.n : batches[_i].n);
    }
}
END_TEST

/* ---- many query heads on one key head -------------------------------------------------------- */

static void check_many_heads(int64_t nheads, int64_t nq, int64_t nk, int causal)
{
    hyperattn_problem p = problem_of(nheads, nq, 6);
    p.nheads_kv = 1;
    p.seqlen_k = nk;
    p.causal = causal;
    hyperattn_params params;
    hyperattn_params_init(&params);
    params.method = HYPERATTN_EXACT;
    tensors t = tensors_new(&p, AT_END);
    tensors_fill(&t, FILL_GAUSS, 8);
    tensors_fill_dout(&t, 8);
    pattern seen = pattern_exact(&t);
    oracle o = oracle_exact(&t);
    grad_oracle g = grad_oracle_of(&t, &seen, &o);
    ck_good(tensors_run(&t, &params, NULL, 3));
    ck_good_at(oracle_compare(&o, &t, 1), "%lld heads, %lld rows, %lld keys, causal %d",
               (long long)nheads, (long long)nq, (long long)nk, causal);
    ck_good(tensors_run_backward(&t, &params, NULL, 3));
    ck_good_at(grad_compare(&g, &t, GRAD_F32, 1), "%lld heads, %lld rows, %lld keys, causal %d",
               (long long)nheads, (long long)nq, (long long)nk, causal);
    grad_oracle_free(&g);
    oracle_free(&o);
    pattern_free(&seen);
    tensors_free(&t);
}

START_TEST(many_query_heads_on_one_key_head)
{
    for (int causal = 0; causal < 2; causal++) {
        check_many_heads(64, 70, 90, causal);
        check_many_heads(64, 1, 450, causal);
        if (!emulated())
            check_many_heads(64, 250, 230, causal);
    }
}
END_TEST

int main(void)
{
    if (emulated())
        puts("reduced: batches of short sequences, no 250 rows of 64 heads");
    TCase *topic = topic_begin("ragged");
    tcase_add_loop_test(topic, each_sequence_has_the_bits_of_its_own_call, 0,
                        emulated() ? 1 : COUNT(batches));
    tcase_add_test(topic, at_every_level_and_in_every_type);
    tcase_add_test(topic, the_first_sequence_draws_as_in_its_own_call);
    tcase_add_test(topic, short_causal_sequences_draw_nothing);
    tcase_add_loop_test(topic, each_sequence_has_its_own_recipe, 0,
                        emulated() ? 1 : COUNT(batches));
    tcase_add_test(topic, many_query_heads_on_one_key_head);
    return topic_end();
}
