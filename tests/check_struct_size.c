/* SPDX-License-Identifier: Apache-2.0
 *
 * Structs of other versions: one that ends before a field is taken as if the fields from there on
 * had their defaults, and nothing behind its end is read; a larger one is another version's.
 */
#include <string.h>

#include "checkmain.h"
#include "plan.h"
#include "tensors.h"

/* ---- the structs and their fields ---------------------------------------------------------- */

/* A call with one struct of the kind, the rest of its arguments being valid, and what the library
 * made of it. */
typedef struct result {
    hyperattn_status status;
    char text[256];
    union {
        struct {
            hyperattn_problem problem;
            hyperattn_params params;
            hyperattn_block_mask mask;
        };
        struct {
            int nthreads, device;
            void *stream, *user;
        };
    };
} result;

typedef struct kind {
    const char *name;
    size_t size;
    size_t offset[24]; /* of the fields behind struct_size; 0 ends them */
    void (*defaults)(void *of);
    void (*fill)(void *with); /* values other than the defaults */
    void (*call)(const void *with, result *r);
} kind;

static hyperattn_ctx *ctx;

/* The fields one by one: what lies between them is anything. The mask's arrays are copies, at
 * another place each time. */
static void copy_fields(result *r, const hyperattn_plan *plan)
{
    const hyperattn_problem *p = &plan->problem;
    const hyperattn_params *q = &plan->params;
    hyperattn_problem *to = &r->problem;
    hyperattn_params *params = &r->params;
    to->struct_size = p->struct_size;
    to->batch = p->batch;
    to->nheads = p->nheads;
    to->nheads_kv = p->nheads_kv;
    to->seqlen_q = p->seqlen_q;
    to->seqlen_k = p->seqlen_k;
    to->head_dim = p->head_dim;
    to->head_dim_v = p->head_dim_v;
    to->dtype = p->dtype;
    to->causal = p->causal;
    to->softmax_scale = p->softmax_scale;
    memcpy(to->q_stride, p->q_stride, sizeof to->q_stride);
    memcpy(to->k_stride, p->k_stride, sizeof to->k_stride);
    memcpy(to->v_stride, p->v_stride, sizeof to->v_stride);
    memcpy(to->out_stride, p->out_stride, sizeof to->out_stride);
    to->cu_seqlens_q = p->cu_seqlens_q;
    to->cu_seqlens_k = p->cu_seqlens_k;
    params->struct_size = q->struct_size;
    params->method = q->method;
    params->heavy = q->heavy;
    params->sampling = q->sampling;
    params->lsh_num_projs = q->lsh_num_projs;
    params->block_size = q->block_size;
    params->sample_size = q->sample_size;
    params->min_seq_len = q->min_seq_len;
    params->num_sinks = q->num_sinks;
    params->window = q->window;
    params->strict_causal = q->strict_causal;
    params->kappa_cap = q->kappa_cap;
    params->seed = q->seed;
    params->budget = q->budget;
    params->leaf_size = q->leaf_size;
    params->num_selected = q->num_selected;
    params->num_candidates = q->num_candidates;
    params->private_depth = q->private_depth;
    params->cell_size = q->cell_size;
    params->far_cell_size = q->far_cell_size;
    r->mask.struct_size = plan->mask.struct_size;
    r->mask.query_block = plan->mask.query_block;
    r->mask.key_block = plan->mask.key_block;
    r->mask.per_head = plan->mask.per_head;
}

static void plan_with(const hyperattn_problem *problem, const hyperattn_params *params, result *r)
{
    hyperattn_plan *plan;
    r->status = hyperattn_plan_create(&plan, ctx, problem, params);
    if (r->status)
        return;
    copy_fields(r, plan);
    hyperattn_plan_destroy(plan);
}

static void init_problem(void *of)
{
    hyperattn_problem_init(of);
}

static void fill_problem(void *with)
{
    hyperattn_problem *p = with;
    p->batch = 2;
    p->nheads = 4;
    p->nheads_kv = 2;
    p->seqlen_q = p->seqlen_k = 3;
    p->head_dim = 5;
    p->head_dim_v = 6;
    p->dtype = HYPERATTN_F16;
    p->causal = 1;
    p->softmax_scale = 0.5f;
    const int64_t stride[3] = {1000, 100, 10};
    for (int i = 0; i < 3; i++)
        p->q_stride[i] = p->k_stride[i] = p->v_stride[i] = p->out_stride[i] = stride[i];
}

static void call_problem(const void *with, result *r)
{
    plan_with(with, NULL, r);
}

static const hyperattn_block_mask *mask_in_use;

static void init_params(void *of)
{
    hyperattn_params_init(of);
}

static void fill_params(void *with)
{
    hyperattn_params *p = with;
    *p = (hyperattn_params){
        .struct_size = sizeof *p,
        .method = HYPERATTN_HYPER,
        .heavy = HYPERATTN_HEAVY_NONE,
        .sampling = HYPERATTN_SAMPLING_VNORM,
        .lsh_num_projs = 3,
        .block_size = 5,
        .sample_size = 6,
        .min_seq_len = 7,
        .num_sinks = 1,
        .window = 2,
        .strict_causal = 1,
        .seed = 77,
        .block_mask = mask_in_use,
        .budget = 100,
        .leaf_size = 128,
        .num_selected = 8,
        .num_candidates = 9,
        .private_depth = 3,
        .cell_size = 16,
        .far_cell_size = 64,
    };
}

static void call_params(const void *with, result *r)
{
    hyperattn_problem p = problem_of(1, 40, 4);
    p.causal = 1;
    plan_with(&p, with, r);
}

static void init_mask(void *of)
{
    hyperattn_block_mask_init(of);
}

static void fill_mask(void *with)
{
    static const int64_t rows[] = {0, 1, 2, 3, 4, 5}, blocks[] = {0, 1, 2, 0, 1};
    hyperattn_block_mask *mask = with;
    mask->query_block = mask->key_block = 16;
    mask->row_start = rows;
    mask->key_blocks = blocks;
}

static void call_mask(const void *with, result *r)
{
    hyperattn_params params;
    fill_params(&params);
    params.block_mask = with;
    call_params(&params, r);
}

static void init_ctx(void *of)
{
    hyperattn_ctx_params_init(of);
}

static int live; /* blocks */

static void *aligned_alloc_counted(size_t align, size_t size, void *user)
{
    void *block = NULL;
    (void)user;
    live += posix_memalign(&block, align, size) == 0;
    return block;
}

static void free_counted(void *block, void *user)
{
    (void)user;
    live--;
    free(block);
}

static void fill_ctx(void *with)
{
    hyperattn_ctx_params *p = with;
    p->nthreads = 3;
    p->device = 2;
    p->stream = p->user = &live;
    p->alloc = aligned_alloc_counted;
    p->free = free_counted;
}

static void call_ctx(const void *with, result *r)
{
    hyperattn_ctx *made;
    r->status = hyperattn_ctx_create(&made, with);
    if (r->status)
        return;
    r->nthreads = made->device.nthreads;
    r->device = made->device.device;
    r->stream = made->device.stream;
    r->user = made->user;
    hyperattn_ctx_destroy(made);
}

#define IN(type, field) offsetof(hyperattn_##type, field)
static const kind kinds[] = {
    {"hyperattn_problem", sizeof(hyperattn_problem),
     {IN(problem, batch), IN(problem, nheads), IN(problem, nheads_kv), IN(problem, seqlen_q),
      IN(problem, seqlen_k), IN(problem, head_dim), IN(problem, head_dim_v), IN(problem, dtype),
      IN(problem, causal), IN(problem, softmax_scale), IN(problem, q_stride),
      IN(problem, k_stride), IN(problem, v_stride), IN(problem, out_stride),
      IN(problem, cu_seqlens_q), IN(problem, cu_seqlens_k)},
     init_problem, fill_problem, call_problem},
    {"hyperattn_params", sizeof(hyperattn_params),
     {IN(params, method), IN(params, heavy), IN(params, sampling), IN(params, lsh_num_projs),
      IN(params, block_size), IN(params, sample_size), IN(params, min_seq_len),
      IN(params, num_sinks), IN(params, window), IN(params, strict_causal), IN(params, kappa_cap),
      IN(params, seed), IN(params, block_mask), IN(params, budget), IN(params, leaf_size),
      IN(params, num_selected), IN(params, num_candidates), IN(params, private_depth),
      IN(params, cell_size), IN(params, far_cell_size), IN(params, target_error)},
     init_params, fill_params, call_params},
    {"hyperattn_block_mask", sizeof(hyperattn_block_mask),
     {IN(block_mask, query_block), IN(block_mask, key_block), IN(block_mask, per_head),
      IN(block_mask, row_start), IN(block_mask, key_blocks)},
     init_mask, fill_mask, call_mask},
    {"hyperattn_ctx_params", sizeof(hyperattn_ctx_params),
     {IN(ctx_params, backend), IN(ctx_params, nthreads), IN(ctx_params, device),
      IN(ctx_params, stream), IN(ctx_params, alloc), IN(ctx_params, free), IN(ctx_params, user)},
     init_ctx, fill_ctx, call_ctx},
};

/* ---- tests --------------------------------------------------------------------------------- */

enum { ROOM = 256 };

/* The call with the first `given` bytes of a struct that says it has `size`, flush against a page
 * that faults. */
static result call_with(const kind *k, const void *full, size_t given, size_t size)
{
    result r;
    memset(&r, 0, sizeof r);
    guarded g = guarded_new(given, AT_END);
    memcpy(g.data, full, given);
    memcpy(g.data, &size, sizeof size);
    k->call(g.data, &r);
    if (r.status)
        strcpy(r.text, hyperattn_last_error());
    guarded_free(&g);
    return r;
}

static int begins_a_field(const kind *k, size_t size)
{
    for (int i = 0; i < COUNT(k->offset) && k->offset[i]; i++)
        if (k->offset[i] == size)
            return 1;
    return size == k->size;
}

static void begin(void)
{
    ck_ok(hyperattn_ctx_create(&ctx, NULL));
    static hyperattn_block_mask mask;
    hyperattn_block_mask_init(&mask);
    fill_mask(&mask);
    mask_in_use = &mask;
}

START_TEST(a_missing_tail_has_its_defaults)
{
    const kind *k = &kinds[_i];
    begin();
    for (size_t size = sizeof size; size <= k->size; size++) {
        if (!begins_a_field(k, size))
            continue;
        _Alignas(16) unsigned char full[ROOM], filled[ROOM];
        k->defaults(filled);
        k->fill(filled);
        k->defaults(full);
        memcpy(full + sizeof size, filled + sizeof size, size - sizeof size);
        result whole = call_with(k, full, k->size, k->size);
        result part = call_with(k, full, size, size);
        ck_assert_msg(memcmp(&whole, &part, sizeof whole) == 0,
                      "%s of %zu bytes: status %d (%s), with the defaults spelled out %d (%s)",
                      k->name, size, part.status, part.text, whole.status, whole.text);
    }
    ck_assert_int_eq(live, 0);
    hyperattn_ctx_destroy(ctx);
}
END_TEST

/* The filled structs are valid, or the test above would compare refusals alone. */
START_TEST(a_whole_struct_is_accepted)
{
    const kind *k = &kinds[_i];
    begin();
    _Alignas(16) unsigned char full[ROOM];
    k->defaults(full);
    k->fill(full);
    result r = call_with(k, full, k->size, k->size);
    ck_assert_msg(r.status == HYPERATTN_OK, "%s: %s", k->name, r.text);
    hyperattn_ctx_destroy(ctx);
}
END_TEST

START_TEST(a_cut_field_is_refused)
{
    const kind *k = &kinds[_i];
    begin();
    _Alignas(16) unsigned char full[ROOM];
    k->defaults(full);
    k->fill(full);
    for (size_t size = 0; size < k->size; size++) {
        if (begins_a_field(k, size))
            continue;
        result r = call_with(k, full, k->size, size);
        ck_assert_int_eq(r.status, HYPERATTN_EINVAL);
        ck_assert_ptr_nonnull(strstr(r.text, k->name));
        ck_assert_ptr_nonnull(strstr(r.text, "struct_size"));
    }
    hyperattn_ctx_destroy(ctx);
}
END_TEST

/* Of which nothing but the size is read. */
START_TEST(a_larger_struct_is_of_another_version)
{
    const kind *k = &kinds[_i];
    const size_t sizes[] = {k->size + 1, k->size + 8, 2 * k->size, SIZE_MAX};
    begin();
    for (int s = 0; s < COUNT(sizes); s++) {
        result r = call_with(k, &sizes[s], sizeof sizes[s], sizes[s]);
        ck_assert_int_eq(r.status, HYPERATTN_EVERSION);
        ck_assert_ptr_nonnull(strstr(r.text, k->name));
        ck_assert_ptr_nonnull(strstr(r.text, "struct_size"));
    }
    hyperattn_ctx_destroy(ctx);
}
END_TEST

int main(void)
{
    TCase *topic = topic_begin("struct_size");
    tcase_add_loop_test(topic, a_missing_tail_has_its_defaults, 0, COUNT(kinds));
    tcase_add_loop_test(topic, a_whole_struct_is_accepted, 0, COUNT(kinds));
    tcase_add_loop_test(topic, a_cut_field_is_refused, 0, COUNT(kinds));
    tcase_add_loop_test(topic, a_larger_struct_is_of_another_version, 0, COUNT(kinds));
    return topic_end();
}
