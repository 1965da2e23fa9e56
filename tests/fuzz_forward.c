/* SPDX-License-Identifier: Apache-2.0
 *
 * Forward and backward on tiny shapes of any kind: exact attention against the oracles where the
 * numbers are tame, and no crash, no stray write and no misplaced NaN whatever they are.
 *
 * The last bytes of an input are the parameters, the rest the numbers, so that a fuzzer can change
 * the one without moving the other. Built with -DHA_FUZZ -fsanitize=fuzzer it is a libFuzzer
 * target; otherwise its main() replays the files named on the command line, by default those in
 * corpus/.
 */
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grad_oracle.h"

/* Bytes taken from the end of the input; zeros where there are none left. */
typedef struct tail {
    const uint8_t *data;
    size_t size;
} tail;

/* A number in [low, high]. */
static int take(tail *from, int low, int high)
{
    int byte = from->size ? from->data[--from->size] : 0;
    return low + byte % (high - low + 1);
}

/* What the parameters of one input say. */
typedef struct scenario {
    hyperattn_problem problem;
    hyperattn_params params;
    int tame; /* numbers in [-4, 4], else the bits as they are */
    placement at;
    const char *level;
    int nthreads;
    int64_t cu_q[4], cu_k[4];
} scenario;

static void take_ragged(scenario *s, tail *from)
{
    hyperattn_problem *p = &s->problem;
    for (int64_t b = 0; b < p->batch; b++) {
        s->cu_q[b + 1] = s->cu_q[b] + take(from, 0, (int)p->seqlen_q);
        s->cu_k[b + 1] = s->cu_k[b] + take(from, 0, (int)p->seqlen_k);
    }
    p->cu_seqlens_q = s->cu_q;
    p->cu_seqlens_k = s->cu_k;
}

static void take_problem(scenario *s, tail *from)
{
    static const float scales[] = {0, 1, 0.125f, -1};
    hyperattn_problem *p = &s->problem;
    hyperattn_problem_init(p);
    p->batch = take(from, 1, 3);
    p->nheads_kv = take(from, 1, 2);
    p->nheads = p->nheads_kv * take(from, 1, 3);
    p->seqlen_q = take(from, 1, 40);
    p->seqlen_k = take(from, 1, 40);
    p->head_dim = take(from, 1, 20);
    p->head_dim_v = take(from, 1, 20);
    p->dtype = (hyperattn_dtype)take(from, HYPERATTN_F32, HYPERATTN_F16);
    p->causal = take(from, 0, 1);
    p->softmax_scale = scales[take(from, 0, 3)];
    if (take(from, 0, 3) == 3)
        take_ragged(s, from);
}

/* The method in place of the one that was taken. */
static void take_multipole(hyperattn_params *o, tail *from)
{
    static const float depths[] = {0, -1, 3, 30};
    o->method = HYPERATTN_MULTIPOLE;
    o->strict_causal = 0;
    o->kappa_cap = 0;
    o->cell_size = 8 << take(from, 0, 4);
    o->far_cell_size = o->cell_size * take(from, 0, 3);
    o->num_selected = take(from, 0, 20);
    o->num_candidates = take(from, 0, 40);
    o->private_depth = depths[take(from, 0, 3)];
}

static void take_params(scenario *s, tail *from)
{
    static const char *const levels[] = {"ref", NULL};
    hyperattn_params *o = &s->params;
    hyperattn_params_init(o);
    o->method = (hyperattn_method)take(from, HYPERATTN_EXACT, HYPERATTN_HYPER);
    o->heavy = (hyperattn_heavy)take(from, HYPERATTN_HEAVY_SORTLSH, HYPERATTN_HEAVY_NONE);
    o->sampling =
        (hyperattn_sampling)take(from, HYPERATTN_SAMPLING_UNIFORM, HYPERATTN_SAMPLING_VNORM);
    o->lsh_num_projs = take(from, 1, 16);
    o->block_size = take(from, 1, 12);
    o->sample_size = take(from, 0, 12);
    o->min_seq_len = take(from, 1, 12);
    o->num_sinks = take(from, 0, 6);
    o->window = s->problem.causal ? take(from, 0, 9) : 0;
    o->strict_causal = s->problem.causal && take(from, 0, 1);
    o->kappa_cap = o->strict_causal ? 0 : (float)take(from, 0, 2);
    o->seed = (uint64_t)take(from, 0, 255);
    s->tame = take(from, 0, 1);
    s->at = (placement)take(from, 0, PLACEMENTS - 1);
    s->level = levels[take(from, 0, 1)];
    s->nthreads = take(from, 1, 2);
    if (take(from, 0, 255) == 255) /* in this place, so that older inputs mean what they meant */
        take_multipole(o, from);
}

/* The numbers repeat as often as the tensors need. */
static void fill_inputs(tensors *t, const scenario *s, const tail *numbers)
{
    size_t used = 0;
    tensors_fill_dout(t, 0); /* room for the gradients; the numbers are replaced */
    for (int which = T_Q; which <= T_DOUT; which++) {
        if (which > T_V && which < T_DOUT)
            continue;
        for (size_t byte = 0; !s->tame && byte < t->mem[which].size; byte++)
            t->mem[which].data[byte] = numbers->size ? numbers->data[used++ % numbers->size] : 0;
        for (int64_t at = 0; s->tame && at < t->elements[which]; at++) {
            int byte = numbers->size ? numbers->data[used++ % numbers->size] : 0;
            element_put(t->mem[which].data, at, t->full.dtype, (byte - 128) / 32.0);
        }
    }
}

static int row_has_nan(const tensors *t, operand which, int64_t b, int64_t h, int64_t i)
{
    for (int64_t c = 0; c < tensors_dim(t, which); c++)
        if (isnan(tensors_get(t, which, b, h, i, c)))
            return 1;
    return 0;
}

/* Every row was written; one whose query is NaN, and that sees a key, is NaN. */
static const char *check_rows(const tensors *t)
{
    for (int64_t b = 0; b < t->full.batch; b++)
        for (int64_t h = 0; h < t->full.nheads; h++)
            for (int64_t i = 0; i < tensors_nrows(t, T_Q, b); i++) {
                int64_t at = tensors_at(t, T_OUT, b, h, i);
                if (is_signalling(t->mem[T_OUT].data, at, t->full.dtype) ||
                    is_signalling(t->lse.data, tensors_row(t, b, h, i), HYPERATTN_F32))
                    return failure("row %lld was not written", (long long)i);
                int sees = tensors_nrows(t, T_K, b) > 0 && tensors_sees(t, b, i, 0);
                if (sees && row_has_nan(t, T_Q, b, h, i) &&
                    !row_has_nan(t, T_OUT, b, h, i))
                    return failure("row %lld hides the NaN of its query", (long long)i);
            }
    return NULL;
}

static const char *check_out(const tensors *t)
{
    oracle o = oracle_exact(t);
    const char *why = oracle_compare(&o, t, 1);
    oracle_free(&o);
    return why;
}

static const char *check_gradients(const tensors *t)
{
    pattern p = pattern_exact(t);
    grad_oracle g = grad_oracle_of(t, &p, NULL);
    grad_rule rule = t->full.dtype == HYPERATTN_BF16 ? GRAD_PLAIN : GRAD_F32;
    if (rule == GRAD_PLAIN)
        grad_oracle_plain(&g, t, &p);
    const char *why = grad_compare(&g, t, rule, 1);
    grad_oracle_free(&g);
    pattern_free(&p);
    return why;
}

static const char *run(const scenario *s, const tail *numbers)
{
    int compares = s->tame && s->params.method == HYPERATTN_EXACT;
    tensors t = tensors_new(&s->problem, s->at);
    fill_inputs(&t, s, numbers);
    const char *why = tensors_run(&t, &s->params, s->level, s->nthreads);
    if (!why && (s->params.method == HYPERATTN_EXACT || s->params.sample_size > 0))
        why = check_rows(&t);
    if (!why && compares)
        why = check_out(&t);
    if (!why)
        why = tensors_run_backward(&t, &s->params, s->level, s->nthreads);
    if (!why && compares)
        why = check_gradients(&t);
    tensors_free(&t);
    return why;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    tail rest = {data, size};
    scenario s = {0};
    take_problem(&s, &rest);
    take_params(&s, &rest);
    const char *why = run(&s, &rest);
    if (why) {
        fprintf(stderr, "%s\n", why);
        abort();
    }
    return 0;
}

#ifndef HA_FUZZ

static int replay(const char *path)
{
    static uint8_t data[1 << 16];
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        return EXIT_FAILURE;
    }
    size_t size = fread(data, 1, sizeof data, file);
    fclose(file);
    printf("%s: %zu bytes\n", path, size);
    fflush(stdout);
    LLVMFuzzerTestOneInput(data, size);
    return EXIT_SUCCESS;
}

/* All files of the corpus; a corpus without files is a failure too. */
static int replay_corpus(void)
{
    const char *srcdir = getenv("srcdir");
    char directory[3072], path[4096];
    snprintf(directory, sizeof directory, "%s/corpus", srcdir ? srcdir : ".");
    struct dirent **entries;
    int n = scandir(directory, &entries, NULL, alphasort), replayed = 0, status = EXIT_SUCCESS;
    for (int i = 0; i < n; i++) {
        if (entries[i]->d_name[0] != '.') {
            snprintf(path, sizeof path, "%s/%s", directory, entries[i]->d_name);
            status |= replay(path);
            replayed++;
        }
        free(entries[i]);
    }
    if (n >= 0)
        free(entries);
    if (replayed == 0)
        fprintf(stderr, "no input in %s\n", directory);
    return replayed ? status : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    int status = argc > 1 ? EXIT_SUCCESS : replay_corpus();
    for (int i = 1; i < argc; i++)
        status |= replay(argv[i]);
    return status;
}

#endif
