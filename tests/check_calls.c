/* SPDX-License-Identifier: Apache-2.0
 *
 * What hyperattn_forward and hyperattn_merge refuse: the text names the argument, and no output is
 * touched.
 */
#include <string.h>

#include "checkmain.h"
#include "tensors.h"

/* Arguments of one call; a test replaces some of them. */
typedef struct call {
    hyperattn_ctx *ctx;
    hyperattn_plan *plan;
    tensors t;
    void *q, *k, *v, *out;
    float *lse;
    guarded workspace;
    void *scratch; /* in workspace */
} call;

enum { HEADS = 2, ROWS = 24, DIM = 16 };

static void call_begin(call *c)
{
    hyperattn_problem p = problem_of(HEADS, ROWS, DIM);
    c->ctx = ctx_at(NULL, 1);
    ck_ok(hyperattn_plan_create(&c->plan, c->ctx, &p, NULL));
    c->t = tensors_new(&p, AT_END);
    tensors_fill(&c->t, FILL_GAUSS, 1);
    c->q = c->t.mem[T_Q].data;
    c->k = c->t.mem[T_K].data;
    c->v = c->t.mem[T_V].data;
    c->out = c->t.mem[T_OUT].data;
    c->lse = (float *)c->t.lse.data;
    c->workspace = guarded_workspace(hyperattn_plan_workspace(c->plan, 0) + 64);
    c->scratch = c->workspace.data;
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

/* The call must fail, name the argument, and leave out, lse and the inputs as they were. */
static void check_refused(call *c, const char *name)
{
    tensors_reset(&c->t);
    tensors copy = tensors_new(&c->t.problem, AT_END);
    for (int which = T_Q; which <= T_V; which++)
        memcpy(copy.mem[which].data, c->t.mem[which].data, copy.mem[which].size);
    ck_assert_msg(forward(c) == HYPERATTN_EINVAL, "%s was accepted", name);
    ck_assert_msg(strstr(hyperattn_last_error(), name) != NULL, "'%s' does not name %s",
                  hyperattn_last_error(), name);
    for (int which = 0; which <= T_OUT; which++)
        ck_assert_mem_eq(c->t.mem[which].data, copy.mem[which].data, copy.mem[which].size);
    ck_assert_mem_eq(c->t.lse.data, copy.lse.data, copy.lse.size);
    tensors_free(&copy);
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
    return topic_end();
}
