/* SPDX-License-Identifier: Apache-2.0 */
#include "params.h"

#include <math.h>

#include "kernels.h"
#include "status.h"

typedef long long ll;

void hyperattn_params_init(hyperattn_params *params)
{
    if (params)
        *params = (hyperattn_params){
            .struct_size = sizeof *params,
            .method = HYPERATTN_AUTO,
            .heavy = HYPERATTN_HEAVY_SORTLSH,
            .sampling = HYPERATTN_SAMPLING_UNIFORM,
            .lsh_num_projs = 7,
            .block_size = 256,
            .sample_size = 256,
            .min_seq_len = 1024,
            .num_sinks = 16,
        };
}

void hyperattn_params_paper(hyperattn_params *params)
{
    hyperattn_params_init(params);
    if (params) {
        params->method = HYPERATTN_HYPER;
        params->min_seq_len = 4096;
        params->num_sinks = 0;
    }
}

void hyperattn_block_mask_init(hyperattn_block_mask *mask)
{
    if (mask)
        *mask = (hyperattn_block_mask){.struct_size = sizeof *mask};
}

static hyperattn_status check_range(const char *name, int value, int low, int high)
{
    if (value < low || value > high)
        return ha_fail(HYPERATTN_EINVAL, "%s is %d, must be %d..%d", name, value, low, high);
    return HYPERATTN_OK;
}

static hyperattn_status check_mask_row(const hyperattn_block_mask *mask, int64_t row,
                                       int64_t nblocks)
{
    int64_t first = mask->row_start[row], last = mask->row_start[row + 1];
    if (last < first || last - first > nblocks)
        return ha_fail(HYPERATTN_EINVAL, "block_mask.row_start[%lld] is %lld after %lld, with %lld "
                       "key blocks", (ll)row + 1, (ll)last, (ll)first, (ll)nblocks);
    for (int64_t e = first; e < last; e++) {
        int64_t block = mask->key_blocks[e];
        if (block < 0 || block >= nblocks)
            return ha_fail(HYPERATTN_EINVAL, "block_mask.key_blocks[%lld] is %lld, must be 0..%lld",
                           (ll)e, (ll)block, (ll)nblocks - 1);
        if (e > first && block <= mask->key_blocks[e - 1])
            return ha_fail(HYPERATTN_EINVAL, "block_mask.key_blocks[%lld] is %lld, not above the "
                           "%lld before it", (ll)e, (ll)block, (ll)mask->key_blocks[e - 1]);
    }
    return HYPERATTN_OK;
}

static hyperattn_status check_mask(const hyperattn_block_mask *mask, const hyperattn_problem *p)
{
    if (mask->struct_size != sizeof *mask)
        return ha_fail(HYPERATTN_EINVAL, "hyperattn_block_mask.struct_size is %zu, must be %zu",
                       mask->struct_size, sizeof *mask);
    if (mask->query_block < 1)
        return ha_fail(HYPERATTN_EINVAL, "block_mask.query_block is %lld, must be at least 1",
                       (ll)mask->query_block);
    if (mask->key_block < 1)
        return ha_fail(HYPERATTN_EINVAL, "block_mask.key_block is %lld, must be at least 1",
                       (ll)mask->key_block);
    if (mask->per_head != 0 && mask->per_head != 1)
        return ha_fail(HYPERATTN_EINVAL, "block_mask.per_head is %d, must be 0 or 1",
                       mask->per_head);
    if (!mask->row_start || !mask->key_blocks)
        return ha_fail(HYPERATTN_EINVAL, "block_mask.%s is NULL",
                       mask->row_start ? "key_blocks" : "row_start");
    if (mask->row_start[0] != 0)
        return ha_fail(HYPERATTN_EINVAL, "block_mask.row_start[0] is %lld, must be 0",
                       (ll)mask->row_start[0]);
    int64_t rows = 1 + (p->seqlen_q - 1) / mask->query_block;
    int64_t nblocks = 1 + (p->seqlen_k - 1) / mask->key_block;
    int64_t heads = mask->per_head ? p->nheads : 1;
    for (int64_t row = 0; row < rows * heads; row++) {
        hyperattn_status status = check_mask_row(mask, row, nblocks);
        if (status)
            return status;
    }
    return HYPERATTN_OK;
}

/* The fields that EXACT does not read. */
static hyperattn_status check_hyper(const hyperattn_params *p, const hyperattn_problem *problem)
{
    if ((unsigned)p->heavy > HYPERATTN_HEAVY_NONE)
        return ha_fail(HYPERATTN_EINVAL, "heavy is %d, not a hyperattn_heavy", (int)p->heavy);
    if ((unsigned)p->sampling > HYPERATTN_SAMPLING_VNORM)
        return ha_fail(HYPERATTN_EINVAL, "sampling is %d, not a hyperattn_sampling",
                       (int)p->sampling);
    hyperattn_status status;
    if ((status = check_range("lsh_num_projs", p->lsh_num_projs, 1, HA_MAX_PROJS)) ||
        (status = check_range("block_size", p->block_size, 1, INT32_MAX)) ||
        (status = check_range("sample_size", p->sample_size, 0, INT32_MAX)) ||
        (status = check_range("min_seq_len", p->min_seq_len, 1, INT32_MAX)) ||
        (status = check_range("num_sinks", p->num_sinks, 0, INT32_MAX)) ||
        (status = check_range("window", p->window, 0, INT32_MAX)) ||
        (status = check_range("strict_causal", p->strict_causal, 0, 1)))
        return status;
    if (!(p->kappa_cap >= 0) || isinf(p->kappa_cap))
        return ha_fail(HYPERATTN_EINVAL, "kappa_cap is %g, must be finite and not negative",
                       (double)p->kappa_cap);
    if (p->window && !problem->causal)
        return ha_fail(HYPERATTN_EINVAL, "window is %d, but causal is 0", p->window);
    if (p->strict_causal && !problem->causal)
        return ha_fail(HYPERATTN_EINVAL, "strict_causal is 1, but causal is 0");
    if (p->block_mask && (status = check_mask(p->block_mask, problem)))
        return status;
    if (p->kappa_cap > 0 && p->strict_causal)
        return ha_fail(HYPERATTN_ENOTSUP, "kappa_cap is %g with strict_causal: tau looks at later "
                       "queries", (double)p->kappa_cap);
    return HYPERATTN_OK;
}

hyperattn_status ha_params_check(const hyperattn_params *p, const hyperattn_problem *problem)
{
    if (p->struct_size != sizeof *p)
        return ha_fail(HYPERATTN_EINVAL, "hyperattn_params.struct_size is %zu, must be %zu",
                       p->struct_size, sizeof *p);
    if ((unsigned)p->method > HYPERATTN_HYPER)
        return ha_fail(HYPERATTN_EINVAL, "method is %d, not a hyperattn_method", (int)p->method);
    return p->method == HYPERATTN_EXACT ? HYPERATTN_OK : check_hyper(p, problem);
}

/* Work beside the products of one row, as keys attended exactly: hash, sort, gather, state. */
#define OVERHEAD_KEYS 64

hyperattn_method ha_params_method(const hyperattn_params *params, const hyperattn_problem *problem)
{
    if (params->method != HYPERATTN_AUTO)
        return params->method;
    double nq = (double)problem->seqlen_q, nk = (double)problem->seqlen_k;
    double row = (double)params->block_size + params->sample_size + params->num_sinks +
                 params->window + OVERHEAD_KEYS;
    if (!problem->causal)
        return nq * nk <= nq * row ? HYPERATTN_EXACT : HYPERATTN_HYPER;
    double n = fmin(nq, nk), lead = fmax(nk - nq, 0);
    double levels = ceil(log2(fmax(1, n / params->min_seq_len))), leaf = n / exp2(levels);
    double exact = n * n / 2 + n * lead;
    double hyper = n * leaf / 2 + levels * n / 2 * row + (lead > 0 ? n * row : 0);
    return exact <= hyper ? HYPERATTN_EXACT : HYPERATTN_HYPER;
}
