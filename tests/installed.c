/* SPDX-License-Identifier: Apache-2.0
 *
 * A user's first program, built by installed.sh against the installed library: keys that are all
 * the same give the mean of the values.
 */
#include <math.h>
#include <stdio.h>

#include <hyperattn.h>

int main(void)
{
    float q[2] = {1, -1}, k[2] = {3, 3}, v[2] = {1, 2}, out[2] = {0, 0};
    hyperattn_problem problem;
    hyperattn_ctx *ctx;
    hyperattn_plan *plan;
    hyperattn_status status;

    hyperattn_problem_init(&problem);
    problem.seqlen_q = 2;
    problem.head_dim = 1;
    if (hyperattn_ctx_create(&ctx, NULL) != HYPERATTN_OK ||
        hyperattn_plan_create(&plan, ctx, &problem, NULL) != HYPERATTN_OK) {
        fprintf(stderr, "%s\n", hyperattn_last_error());
        return 1;
    }
    status = hyperattn_forward(plan, q, k, v, out, NULL, NULL);
    hyperattn_plan_destroy(plan);
    hyperattn_ctx_destroy(ctx);
    if (status != HYPERATTN_OK || fabsf(out[0] - 1.5f) > 1e-6f || fabsf(out[1] - 1.5f) > 1e-6f) {
        fprintf(stderr, "status %d, out %g %g\n", status, out[0], out[1]);
        return 1;
    }
    printf("libhyperattn %s\n", hyperattn_version());
    return 0;
}
