/* SPDX-License-Identifier: Apache-2.0 */
#include "refusal.h"

#include <stdio.h>
#include <string.h>

const char *fixture_begin(fixture *f)
{
    memset(f, 0, sizeof *f);
    hyperattn_ctx_params ctx_params = allocs_params(&f->memory);
    ctx_params.nthreads = 1;
    if (hyperattn_ctx_create(&f->ctx, &ctx_params) != HYPERATTN_OK)
        return failure("no context: %s", hyperattn_last_error());
    f->live = f->memory.live;
    hyperattn_problem_init(&f->problem);
    f->problem.batch = 2;
    f->problem.nheads = 4;
    f->problem.nheads_kv = 2;
    f->problem.seqlen_q = 40;
    f->problem.seqlen_k = 48;
    f->problem.head_dim = 16;
    f->problem.head_dim_v = 24;
    hyperattn_params_init(&f->params);
    f->params.method = HYPERATTN_HYPER;
    return NULL;
}

const char *fixture_end(fixture *f)
{
    int64_t leaked = f->memory.live - f->live;
    hyperattn_ctx_destroy(f->ctx);
    if (leaked)
        return failure("%lld blocks of plans stay allocated", (long long)leaked);
    if (f->memory.live)
        return failure("%lld blocks of the context stay allocated", (long long)f->memory.live);
    return NULL;
}

const char *accepts(fixture *f)
{
    hyperattn_plan *plan;
    if (hyperattn_plan_create(&plan, f->ctx, &f->problem, &f->params) != HYPERATTN_OK)
        return failure("refused: %s", hyperattn_last_error());
    hyperattn_plan_destroy(plan);
    return NULL;
}

const char *refuses(fixture *f, hyperattn_status want, const char *name)
{
    hyperattn_plan *plan = (hyperattn_plan *)f; /* which the call must replace */
    hyperattn_status status = hyperattn_plan_create(&plan, f->ctx, &f->problem, &f->params);
    if (status == HYPERATTN_OK) {
        hyperattn_plan_destroy(plan);
        return failure("accepted, should complain about %s", name);
    }
    if (status != want)
        return failure("%s (%s), not %s", hyperattn_strerror(status), hyperattn_last_error(),
                       hyperattn_strerror(want));
    if (!strstr(hyperattn_last_error(), name))
        return failure("'%s' does not name %s", hyperattn_last_error(), name);
    if (plan)
        return "the plan is not NULL";
    return f->memory.live == f->live ? NULL : "a block stays allocated";
}

const char *refuses_value(fixture *f, const char *name, long long value)
{
    char digits[32];
    snprintf(digits, sizeof digits, "%lld", value);
    const char *why = refuses(f, HYPERATTN_EINVAL, name);
    if (!why && !strstr(hyperattn_last_error(), digits))
        why = failure("'%s' does not give the value %s", hyperattn_last_error(), digits);
    return why;
}
