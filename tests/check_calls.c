/* SPDX-License-Identifier: Apache-2.0
 *
 * What hyperattn_forward, hyperattn_backward and hyperattn_merge refuse: the text names the
 * argument, and no output is touched.
 */
#include <ctype.h>
#include <string.h>

#include "checkmain.h"
#include "tensors.h"

/* Arguments of one call; a test replaces some of them. */
typedef struct call {
    hyperattn_ctx *ctx;
    hyperattn_plan *plan;
    tensors t;
    void *q, *k, *v, *out;
    void *dout, *dq, *dk, *dv;
    float *lse;
    guarded workspace; /* for forward and for backward */
    void *scratch;     /* in workspace */
} call;

enum { HEADS = 2, ROWS = 24, DIM = 16 };

static void call_begin_with(call *c, const hyperattn_problem *p)
{
    c->ctx = ctx_at(NULL, 1);
    ck_ok(hyperattn_plan_create(&c->plan, c->ctx, p, NULL));
    c->t = tensors_new(p, AT_END);
    tensors_fill(&c->t, FILL_GAUSS, 1);
    tensors_fill_dout(&c->t, 1);
    c->q = c->t.mem[T_Q].data;
    c->k = c->t.mem[T_K].data;
    c->v = c->t.mem[T_V].data;
    c->out = c->t.mem[T_OUT].data;
    c->dout = c->t.mem[T_DOUT].data;
    c->dq = c->t.mem[T_DQ].data;
    c->dk = c->t.mem[T_DK].data;
    c->dv = c->t.mem[T_DV].data;
    c->lse = (float *)c->t.lse.data;
    size_t forward = hyperattn_plan_workspace(c->plan, 0);
    size_t backward = hyperattn_plan_workspace(c->plan, 1);
    c->workspace = guarded_workspace((forward > backward ? forward : backward) + 64);
    c->scratch = c->workspace.data;
}

static void call_begin(call *c)
{
    hyperattn_problem p = problem_of(HEADS, ROWS, DIM);
    call_begin_with(c, &p);
}

static void call_end(call *c)
{
    tensors_free(&c->t);
    guarded_free(&c->workspace);
    hyperattn_plan_destroy(c->plan);
    hyperattn_ctx_destroy(c->ctx);
}

static hyperattn_status forward(const call *c)
{
    return hyperattn_forward(c->plan, c->q, c->k, c->v, c->out, c->lse, c->scratch);
}

static hyperattn_status backward(const call *c)
{
    return hyperattn_backward(c->plan, c->q, c->k, c->v, c->out, c->lse, c->dout, c->dq, c->dk,
                              c->dv, c->scratch);
}

/* Whether a text has the name as a word: "q" is not in "dq". */
static int has_word(const char *text, const char *name)
{
    size_t n = strlen(name);
    for (const char *at = text; (at = strstr(at, name)) != NULL; at++)
        if ((at == text || !isalnum((unsigned char)at[-1])) && !isalnum((unsigned char)at[n]))
            return 1;
    return 0;
}

/* The call must fail, name the argument, and leave every tensor as it was. */
static void check_refused_by(call *c, hyperattn_status (*function)(const call *), const char *name)
{
    tensors_reset(&c->t);
    tensors_reset_gradients(&c->t);
    tensors copy = tensors_new(&c->t.problem, AT_END);
    tensors_fill_dout(&copy, 1);
    for (int which = 0; which < OPERANDS; which++)
        memcpy(copy.mem[which].data, c->t.mem[which].data, copy.mem[which].size);
    ck_assert_msg(function(c) == HYPERATTN_EINVAL, "%s was accepted", name);
    ck_assert_msg(has_word(hyperattn_last_error(), name), "'%s' does not name %s",
                  hyperattn_last_error(), name);
    for (int which = 0; which < OPERANDS; which++)
        ck_assert_mem_eq(c->t.mem[which].data, copy.mem[which].data, copy.mem[which].size);
    ck_assert_mem_eq(c->t.lse.data, copy.lse.data, copy.lse.size);
    tensors_free(&copy);
}

static void check_refused(call *c, const char *name)
{
    check_refused_by(c, forward, name);
}

START_TEST(forward_needs_its_tensors)
{
    call c;
    call_begin(&c);
    ck_ok(forward(&c));
    call good = c;
    c.q = NULL;
    check_refused(&c, "q");
    c = good;
    c.k = NULL;
    check_refused(&c, "k");
    c = good;
    c.v = NULL;
    check_refused(&c, "v");
    c = good;
    c.out = NULL;
    check_refused(&c, "out");
    c = good;
    c.plan = NULL;
    check_refused(&c, "plan");
    call_end(&good);
}
END_TEST

START_TEST(lse_and_workspace_may_be_null)
{
    call c;
    call_begin(&c);
    c.lse = NULL;
    ck_ok(forward(&c));
    c.scratch = NULL;
    ck_ok(forward(&c));
    call_end(&c);
}
END_TEST

START_TEST(a_misaligned_workspace_is_refused)
{
    call c;
    call_begin(&c);
    for (int offset = 1; offset < 64; offset++) {
        c.scratch = c.workspace.data + offset;
        check_refused(&c, "workspace");
    }
    c.scratch = c.workspace.data + 64;
    ck_ok(forward(&c));
    call_end(&c);
}
END_TEST

/* out laid over an input, exactly, by its last byte, or by its first. */
START_TEST(out_may_not_overlap_an_input)
{
    call c;
    call_begin(&c);
    size_t size = c.t.mem[T_OUT].size; /* that of q, k and v too */
    unsigned char *room = calloc(3, size);
    for (int which = T_Q; which <= T_V; which++) {
        void **input = which == T_Q ? &c.q : which == T_K ? &c.k : &c.v;
        void *before = *input;
        *input = room + size;
        c.out = room + size;
        check_refused(&c, "out");
        c.out = room + 4;
        check_refused(&c, "out");
        c.out = room + 2 * size - 4;
        check_refused(&c, "out");
        c.out = room;
        ck_ok(forward(&c));
        c.out = room + 2 * size;
        ck_ok(forward(&c));
        *input = before;
    }
    free(room);
    call_end(&c);
}
END_TEST

START_TEST(lse_may_not_overlap_a_tensor)
{
    call c;
    call_begin(&c);
    void *const others[] = {c.q, c.k, c.v, c.out};
    size_t last = c.t.mem[T_OUT].size - 4;
    for (int s = 0; s < COUNT(others); s++) {
        c.lse = others[s];
        check_refused(&c, "lse");
        c.lse = (float *)((char *)others[s] + last);
        check_refused(&c, "lse");
    }
    call_end(&c);
}
END_TEST

/* Inputs are only read, so q = k = v is self-attention and fine. */
START_TEST(inputs_may_be_the_same)
{
    call c;
    call_begin(&c);
    c.k = c.v = c.q;
    ck_ok(forward(&c));
    call_end(&c);
}
END_TEST

START_TEST(merge_needs_everything)
{
    call c;
    call_begin(&c);
    ck_ok(forward(&c));
    saved other = tensors_save(&c.t), before = tensors_save(&c.t);
    const struct {
        hyperattn_plan *plan;
        void *out, *out2;
        float *lse, *lse2;
        const char *name;
    } cases[] = {
        {NULL, c.out, other.out, c.lse, other.lse, "plan"},
        {c.plan, NULL, other.out, c.lse, other.lse, "out"},
        {c.plan, c.out, NULL, c.lse, other.lse, "out2"},
        {c.plan, c.out, other.out, NULL, other.lse, "lse"},
        {c.plan, c.out, other.out, c.lse, NULL, "lse2"},
    };
    for (int s = 0; s < COUNT(cases); s++) {
        ck_assert_int_eq(hyperattn_merge(cases[s].plan, cases[s].out, cases[s].lse, cases[s].out2,
                                         cases[s].lse2),
                         HYPERATTN_EINVAL);
        ck_assert_msg(strstr(hyperattn_last_error(), cases[s].name) != NULL,
                      "'%s' does not name %s", hyperattn_last_error(), cases[s].name);
        ck_good(tensors_same_bits(&c.t, &before, ROWS));
    }
    saved_free(&other);
    saved_free(&before);
    call_end(&c);
}
END_TEST

/* ---- backward -------------------------------------------------------------------------------- */

/* The pointers of a call by name. */
typedef struct argument {
    const char *name;
    void **pointer;
} argument;

enum { INPUTS = 5, GRADIENTS = 8, ARGUMENTS = 9 };

/* First the inputs, then the gradients, then lse. */
static void list_arguments(call *c, argument list[ARGUMENTS])
{
    const argument all[ARGUMENTS] = {
        {"q", &c->q},   {"k", &c->k},   {"v", &c->v},   {"out", &c->out},
        {"dout", &c->dout}, {"dq", &c->dq}, {"dk", &c->dk}, {"dv", &c->dv},
        {"lse", (void **)(void *)&c->lse},
    };
    memcpy(list, all, sizeof all);
}

START_TEST(backward_needs_everything)
{
    call c;
    argument list[ARGUMENTS];
    call_begin(&c);
    ck_ok(forward(&c));
    ck_ok(backward(&c));
    list_arguments(&c, list);
    for (int a = 0; a < ARGUMENTS; a++) {
        void *before = *list[a].pointer;
        *list[a].pointer = NULL;
        check_refused_by(&c, backward, list[a].name);
        *list[a].pointer = before;
    }
    hyperattn_plan *plan = c.plan;
    c.plan = NULL;
    check_refused_by(&c, backward, "plan");
    c.plan = plan;
    ck_ok(forward(&c));
    c.scratch = NULL;
    ck_ok(backward(&c));
    call_end(&c);
}
END_TEST

START_TEST(backward_needs_alignment)
{
    call c;
    argument list[ARGUMENTS];
    call_begin(&c);
    list_arguments(&c, list);
    for (int a = 0; a < ARGUMENTS; a++)
        for (int offset = 1; offset < 4; offset++) {
            char *before = *list[a].pointer;
            *list[a].pointer = before + offset;
            check_refused_by(&c, backward, list[a].name);
            *list[a].pointer = before;
        }
    for (int offset = 1; offset < 64; offset++) {
        c.scratch = c.workspace.data + offset;
        check_refused_by(&c, backward, "workspace");
    }
    c.scratch = c.workspace.data + 64;
    ck_ok(forward(&c));
    ck_ok(backward(&c));
    call_end(&c);
}
END_TEST

/* A gradient laid over another tensor, exactly, by its last element, or by its first. */
START_TEST(gradients_may_not_overlap_a_tensor)
{
    call c;
    argument list[ARGUMENTS];
    call_begin(&c);
    ck_ok(forward(&c));
    list_arguments(&c, list);
    size_t size = c.t.mem[T_DQ].size; /* that of all tensors */
    unsigned char *room = calloc(3, size);
    for (int g = INPUTS; g < GRADIENTS; g++)
        for (int a = 0; a < ARGUMENTS; a++) {
            void *gradient = *list[g].pointer, *other = *list[a].pointer;
            size_t other_size = a == GRADIENTS ? c.t.lse.size : size;
            if (a == g)
                continue;
            *list[a].pointer = memcpy(room + size, other, other_size);
            const size_t overlapping[] = {size, 4, size + other_size - 4};
            for (int s = 0; s < 3; s++) {
                *list[g].pointer = room + overlapping[s];
                check_refused_by(&c, backward, list[g].name);
                ck_assert(has_word(hyperattn_last_error(), list[a].name));
            }
            *list[g].pointer = room;
            ck_ok(backward(&c));
            *list[g].pointer = room + size + other_size;
            ck_ok(other_size == size ? backward(&c) : HYPERATTN_OK);
            *list[g].pointer = gradient;
            *list[a].pointer = other;
        }
    free(room);
    call_end(&c);
}
END_TEST

START_TEST(a_workspace_may_not_overlap_a_tensor)
{
    call c;
    argument list[ARGUMENTS];
    call_begin(&c);
    list_arguments(&c, list);
    for (int a = 0; a < ARGUMENTS; a++) {
        void *before = *list[a].pointer;
        *list[a].pointer = c.workspace.data;
        check_refused_by(&c, backward, list[a].name);
        ck_assert(has_word(hyperattn_last_error(), "workspace"));
        *list[a].pointer = before;
    }
    call_end(&c);
}
END_TEST

/* Inputs are only read: q = k = v, and dout = out. */
START_TEST(inputs_of_backward_may_be_the_same)
{
    call c;
    call_begin(&c);
    ck_ok(forward(&c));
    c.k = c.v = c.q;
    c.dout = c.out;
    ck_ok(backward(&c));
    call_end(&c);
}
END_TEST

/* Heads or sequences that share their rows would share their gradients. */
START_TEST(gradients_of_shared_rows_are_refused)
{
    static const struct {
        int64_t q[3], k[3], v[3];
        const char *name;
    } cases[] = {
        {{0, 19 * 16, 16}, {0}, {0}, "q_stride"},
        {{0}, {0, 19 * 16, 16}, {0}, "k_stride"},
        {{0}, {2 * 19 * 16, 0, 16}, {0}, "k_stride"},
        {{0}, {0}, {19 * 16, 0, 16}, "v_stride"},
        {{0}, {0}, {19 * 16 + 16, 16, 16}, "v_stride"},
        {{2 * 19 * 16, 18 * 16, 16}, {0}, {0}, "q_stride"},
    };
    for (int s = 0; s < COUNT(cases); s++) {
        hyperattn_problem p = problem_of(2, 19, 16);
        p.batch = 3;
        memcpy(p.q_stride, cases[s].q, sizeof p.q_stride);
        memcpy(p.k_stride, cases[s].k, sizeof p.k_stride);
        memcpy(p.v_stride, cases[s].v, sizeof p.v_stride);
        call c;
        call_begin_with(&c, &p);
        ck_ok(forward(&c));
        ck_assert_int_eq(backward(&c), HYPERATTN_EINVAL);
        ck_assert_msg(strstr(hyperattn_last_error(), cases[s].name) != NULL,
                      "'%s' does not name %s", hyperattn_last_error(), cases[s].name);
        call_end(&c);
    }
}
END_TEST

/* q, k and v in one array, row by row, and the gradients in another. */
enum { QKV = 3 * HEADS * DIM };

static void call_begin_in_rows(call *c, float *x, float *dx)
{
    hyperattn_problem p = problem_of(HEADS, ROWS, DIM);
    const int64_t stride[3] = {ROWS * QKV, DIM, QKV};
    memcpy(p.q_stride, stride, sizeof stride);
    memcpy(p.k_stride, stride, sizeof stride);
    memcpy(p.v_stride, stride, sizeof stride);
    call_begin_with(c, &p);
    rng r = rng_new(3);
    for (int i = 0; i < ROWS * QKV; i++)
        x[i] = (float)rng_gauss(&r);
    c->q = x;
    c->k = x + HEADS * DIM;
    c->v = x + 2 * HEADS * DIM;
    c->dq = dx;
    c->dk = dx + HEADS * DIM;
    c->dv = dx + 2 * HEADS * DIM;
}

START_TEST(gradients_may_share_an_array_of_rows)
{
    static float x[ROWS * QKV], dx[ROWS * QKV], apart[3][ROWS * QKV];
    call c;
    call_begin_in_rows(&c, x, dx);
    ck_ok(forward(&c));
    ck_ok(backward(&c));
    c.dq = apart[0];
    c.dk = apart[1];
    c.dv = apart[2];
    ck_ok(backward(&c));
    for (int i = 0; i < ROWS; i++)
        for (int part = 0; part < 3; part++)
            ck_assert_mem_eq(dx + i * QKV + part * HEADS * DIM, apart[part] + i * QKV,
                             HEADS * DIM * sizeof(float));
    call_end(&c);
}
END_TEST

/* One element too near, on either side, by a whole row too. */
START_TEST(interleaved_gradients_may_not_overlap)
{
    static float x[2 * ROWS * QKV], dx[4 * ROWS * QKV];
    call c;
    call_begin_in_rows(&c, x, dx + QKV);
    float *dq = dx + QKV, *dk = c.dk;
    const int wrong[] = {-1, 1, -QKV - 1, QKV + 1, 7 * QKV + 1};
    for (int s = 0; s < COUNT(wrong); s++) {
        c.dk = dq + HEADS * DIM - (wrong[s] < 0) * HEADS * DIM + wrong[s];
        check_refused_by(&c, backward, "dk");
    }
    c.dk = dk;
    c.dv = dq + 7 * QKV + HEADS * DIM; /* on dk, seven rows on */
    check_refused_by(&c, backward, "dv");
    c.dv = x + 2 * HEADS * DIM; /* v itself */
    check_refused_by(&c, backward, "dv");
    call_end(&c);
}
END_TEST

START_TEST(workspace_knows_forward_and_backward)
{
    call c;
    call_begin(&c);
    ck_assert_uint_gt(hyperattn_plan_workspace(c.plan, 1), 0);
    static const int wrong[] = {-1, 2, 1000};
    for (int s = 0; s < COUNT(wrong); s++) {
        ck_assert_uint_eq(hyperattn_plan_workspace(c.plan, wrong[s]), 0);
        ck_assert(has_word(hyperattn_last_error(), "backward"));
    }
    ck_assert_uint_eq(hyperattn_plan_workspace(NULL, 1), 0);
    ck_assert(has_word(hyperattn_last_error(), "plan"));
    call_end(&c);
}
END_TEST

int main(void)
{
    TCase *topic = topic_begin("calls");
    tcase_add_test(topic, forward_needs_its_tensors);
    tcase_add_test(topic, lse_and_workspace_may_be_null);
    tcase_add_test(topic, a_misaligned_workspace_is_refused);
    tcase_add_test(topic, out_may_not_overlap_an_input);
    tcase_add_test(topic, lse_may_not_overlap_a_tensor);
    tcase_add_test(topic, inputs_may_be_the_same);
    tcase_add_test(topic, merge_needs_everything);
    tcase_add_test(topic, backward_needs_everything);
    tcase_add_test(topic, backward_needs_alignment);
    tcase_add_test(topic, gradients_may_not_overlap_a_tensor);
    tcase_add_test(topic, a_workspace_may_not_overlap_a_tensor);
    tcase_add_test(topic, inputs_of_backward_may_be_the_same);
    tcase_add_test(topic, gradients_of_shared_rows_are_refused);
    tcase_add_test(topic, gradients_may_share_an_array_of_rows);
    tcase_add_test(topic, interleaved_gradients_may_not_overlap);
    tcase_add_test(topic, workspace_knows_forward_and_backward);
    return topic_end();
}
