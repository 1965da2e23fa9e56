/* SPDX-License-Identifier: Apache-2.0 */
#include "choose_cases.h"

#include <string.h>

hyperattn_params params_with(hyperattn_method method, float target)
{
    hyperattn_params params;
    hyperattn_params_init(&params);
    params.method = method;
    params.target_error = target;
    return params;
}

hyperattn_problem causal_problem(int64_t heads, int64_t heads_kv, int64_t n, int64_t d)
{
    hyperattn_problem p = problem_of(heads, n, d);
    p.nheads_kv = heads_kv;
    p.causal = 1;
    return p;
}

hyperattn_params step_of(const hyperattn_plan *plan, int step)
{
    hyperattn_params params;
    hyperattn_params_init(&params);
    if (hyperattn_plan_step(plan, step, &params) != HYPERATTN_OK)
        params.method = (hyperattn_method)-1;
    return params;
}

void fill_topics(tensors *t, uint64_t seed)
{
    enum { TOPICS = 32, MOST_DIM = 64 };
    static double centre[TOPICS][MOST_DIM], value[TOPICS][MOST_DIM];
    rng r = rng_new(seed);
    for (operand which = T_Q; which <= T_V; which++)
        for (int64_t h = 0; h < tensors_heads(t, which); h++) {
            double hard = (double)(h + 1) / (double)tensors_heads(t, which);
            if (which == T_Q || h == 0) /* the same for q and k */
                r = rng_new(seed + (uint64_t)(h * t->full.nheads_kv / t->full.nheads));
            for (int topic = 0; topic < TOPICS; topic++)
                for (int e = 0; e < MOST_DIM; e++) {
                    centre[topic][e] = rng_gauss(&r);
                    value[topic][e] = rng_gauss(&r);
                }
            for (int64_t b = 0; b < t->problem.batch; b++)
                for (int64_t i = 0, topic = 0; i < tensors_nrows(t, which, b); i++) {
                    topic = i % 40 ? topic : rng_below(&r, TOPICS);
                    for (int64_t e = 0; e < tensors_dim(t, which); e++) {
                        double at = which == T_V ? 1 + 0.5 * value[topic][e] : centre[topic][e];
                        double x = at + (which == T_V ? hard : 0.5) * rng_gauss(&r);
                        tensors_put(t, which, b, h, i, e, which == T_Q ? 1.4 * hard * x : x);
                    }
                }
        }
}

static const char *run(tensors *t, const hyperattn_plan *plan, choices *c)
{
    guarded workspace = guarded_workspace(hyperattn_plan_workspace(plan, 0));
    const char *why = NULL;
    memset(workspace.data, 0xff, workspace.size);
    if (hyperattn_forward_report(plan, t->mem[T_Q].data, t->mem[T_K].data, t->mem[T_V].data,
                                 t->mem[T_OUT].data, (float *)t->lse.data, workspace.data,
                                 c->head) != HYPERATTN_OK)
        why = failure("forward_report: %s", hyperattn_last_error());
    why = why ? why : guarded_check(&workspace);
    why = why ? why : guarded_check(&t->mem[T_OUT]);
    guarded_free(&workspace);
    return why;
}

const char *forward_report(tensors *t, const hyperattn_params *params, int nthreads, choices *c)
{
    hyperattn_ctx *ctx = ctx_at(NULL, nthreads);
    hyperattn_plan *plan;
    const char *why = NULL;
    memset(c, 0x55, sizeof *c);
    hyperattn_choice_init(&c->head[0]);
    tensors_reset(t);
    if (hyperattn_plan_create(&plan, ctx, &t->problem, params) != HYPERATTN_OK)
        why = failure("no plan: %s", hyperattn_last_error());
    why = why ? why : run(t, plan, c);
    hyperattn_plan_destroy(plan);
    hyperattn_ctx_destroy(ctx);
    return why;
}
