/* SPDX-License-Identifier: Apache-2.0 */
#include "params.h"

#include <math.h>
#include <string.h>

#include "algo/multipole.h"
#include "kernels.h"
#include "status.h"
#include "struct_size.h"

typedef long long ll;

#define FIELD(name) offsetof(hyperattn_params, name)
static const size_t fields[] = {
    FIELD(method),      FIELD(heavy),     FIELD(sampling), FIELD(lsh_num_projs), FIELD(block_size),
    FIELD(sample_size), FIELD(min_seq_len), FIELD(num_sinks), FIELD(window),
    FIELD(strict_causal), FIELD(kappa_cap), FIELD(seed),   FIELD(block_mask),
    FIELD(budget), FIELD(leaf_size), FIELD(num_selected), FIELD(num_candidates),
    FIELD(private_depth), FIELD(cell_size), FIELD(far_cell_size),
    FIELD(target_error),
};
static const ha_struct kind = {"hyperattn_params", sizeof(hyperattn_params), fields,
                               sizeof fields / sizeof *fields};

#define MASK_FIELD(name) offsetof(hyperattn_block_mask, name)
static const size_t mask_fields[] = {MASK_FIELD(query_block), MASK_FIELD(key_block),
                                     MASK_FIELD(per_head), MASK_FIELD(row_start),
                                     MASK_FIELD(key_blocks)};
static const ha_struct mask_kind = {"hyperattn_block_mask", sizeof(hyperattn_block_mask),
                                    mask_fields, sizeof mask_fields / sizeof *mask_fields};

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

/* The fields that HYPER and MULTIPOLE share. */
static hyperattn_status check_shared(const hyperattn_params *p, const hyperattn_problem *problem)
{
    hyperattn_status status;
    if ((status = check_range("num_sinks", p->num_sinks, 0, INT32_MAX)) ||
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
    return HYPERATTN_OK;
}

/* The fields that are HyperAttention's, but for the mask. */
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
        (status = check_shared(p, problem)))
        return status;
    if (p->block_mask && (status = check_mask(p->block_mask, problem)))
        return status;
    if (p->kappa_cap > 0 && p->strict_causal)
        return ha_fail(HYPERATTN_ENOTSUP, "kappa_cap is %g with strict_causal: tau looks at later "
                       "queries", (double)p->kappa_cap);
    return HYPERATTN_OK;
}

/* What MULTIPOLE has no counterpart of; AUTO may become MULTIPOLE. */
static hyperattn_status check_refused(const hyperattn_params *p, const char *method)
{
    if (p->block_mask)
        return ha_fail(HYPERATTN_ENOTSUP, "block_mask is not NULL with %s, which has no blocks",
                       method);
    if (p->kappa_cap > 0)
        return ha_fail(HYPERATTN_ENOTSUP, "kappa_cap is %g with %s, which takes no samples",
                       (double)p->kappa_cap, method);
    return HYPERATTN_OK;
}

/* The sizes of cells and leaves: 0, which takes what the budget gives, or one of those that fit
 * together. */
static hyperattn_status check_sizes(const hyperattn_params *p, const hyperattn_problem *problem)
{
    int leaf = p->leaf_size, cell = p->cell_size;
    if (leaf < 0 || leaf > HA_LONG_STRETCH || leaf % HA_SHORT_STRETCH)
        return ha_fail(HYPERATTN_EINVAL, "leaf_size is %d, must be 0 or a multiple of %d up to %d",
                       leaf, HA_SHORT_STRETCH, HA_LONG_STRETCH);
    if (cell && (cell < 8 || cell > HA_SHORT_STRETCH || (cell & (cell - 1))))
        return ha_fail(HYPERATTN_EINVAL, "cell_size is %d, must be 0, 8, 16, 32, 64 or 128", cell);
    int64_t least = ha_recipe_of(p, problem->seqlen_q, problem->seqlen_k, problem->causal).cell;
    if (p->far_cell_size && p->far_cell_size < least)
        return ha_fail(HYPERATTN_EINVAL, "far_cell_size is %d, must be 0 or at least the cell size "
                       "%lld", p->far_cell_size, (ll)least);
    return HYPERATTN_OK;
}

static hyperattn_status check_multipole_sizes(const hyperattn_params *p,
                                              const hyperattn_problem *problem)
{
    hyperattn_status status;
    if ((status = check_range("num_selected", p->num_selected, 0, INT32_MAX)) ||
        (status = check_range("num_candidates", p->num_candidates, 0, INT32_MAX)))
        return status;
    return check_sizes(p, problem);
}

static hyperattn_status check_multipole(const hyperattn_params *p, const hyperattn_problem *problem)
{
    hyperattn_status status;
    if ((status = check_shared(p, problem)) || (status = check_refused(p, "MULTIPOLE")))
        return status;
    if (p->budget && (p->budget < HA_LEAST_BUDGET || p->budget > HA_MOST_BUDGET))
        return ha_fail(HYPERATTN_EINVAL, "budget is %d, must be 0 or %d..%d", p->budget,
                       HA_LEAST_BUDGET, HA_MOST_BUDGET);
    if (!isfinite(p->private_depth))
        return ha_fail(HYPERATTN_EINVAL, "private_depth is %g, must be finite",
                       (double)p->private_depth);
    return check_multipole_sizes(p, problem);
}

/* AUTO with target_error reads what both methods read, but for what it chooses itself. */
static hyperattn_status check_auto(const hyperattn_params *p, const hyperattn_problem *problem)
{
    hyperattn_status status;
    if (p->budget)
        return ha_fail(HYPERATTN_EINVAL, "budget is %d with AUTO and target_error, which choose it",
                       p->budget);
    if (p->private_depth != 0)
        return ha_fail(HYPERATTN_EINVAL, "private_depth is %g with AUTO and target_error, which "
                       "choose it", (double)p->private_depth);
    if ((status = check_hyper(p, problem)) || (status = check_refused(p, "AUTO and target_error")))
        return status;
    return check_multipole_sizes(p, problem);
}

static hyperattn_status check_target(const hyperattn_params *p)
{
    if (!(p->target_error >= 0 && p->target_error <= 1))
        return ha_fail(HYPERATTN_EINVAL, "target_error is %g, must be 0..1",
                       (double)p->target_error);
    int chosen = p->method == HYPERATTN_HYPER || p->method == HYPERATTN_MULTIPOLE;
    if (p->target_error > 0 && p->strict_causal && chosen)
        return ha_fail(HYPERATTN_ENOTSUP, "target_error is %g with strict_causal: the choice looks "
                       "at later rows", (double)p->target_error);
    return HYPERATTN_OK;
}

/* AUTO without target_error checks what HYPER reads. */
static hyperattn_status check_method(hyperattn_params *p, hyperattn_block_mask *mask,
                                     const hyperattn_problem *problem)
{
    if ((unsigned)p->method > HYPERATTN_MULTIPOLE)
        return ha_fail(HYPERATTN_EINVAL, "method is %d, not a hyperattn_method", (int)p->method);
    hyperattn_status target = check_target(p);
    if (target || p->method == HYPERATTN_EXACT)
        return target;
    if (p->method == HYPERATTN_MULTIPOLE)
        return check_multipole(p, problem);
    if (p->block_mask) {
        hyperattn_block_mask_init(mask);
        hyperattn_status status = ha_struct_read(mask, p->block_mask, &mask_kind);
        if (status)
            return status;
        p->block_mask = mask;
    }
    return p->method == HYPERATTN_AUTO && p->target_error > 0 ? check_auto(p, problem)
                                                              : check_hyper(p, problem);
}

hyperattn_status ha_params_resolve(hyperattn_params *resolved, hyperattn_block_mask *mask,
                                   const hyperattn_params *params, const hyperattn_problem *problem)
{
    hyperattn_params p;
    hyperattn_params_init(&p);
    hyperattn_status status = params ? ha_struct_read(&p, params, &kind) : HYPERATTN_OK;
    if (status)
        return status;
    if ((status = check_method(&p, mask, problem)))
        return status;
    if (p.method == HYPERATTN_AUTO || p.method == HYPERATTN_EXACT)
        p.block_mask = NULL;
    *resolved = p;
    return HYPERATTN_OK;
}

hyperattn_status ha_params_write(hyperattn_params *to, const hyperattn_params *from)
{
    hyperattn_params all;
    size_t size = to->struct_size;
    hyperattn_status status = ha_struct_read(&all, to, &kind);
    if (status)
        return status;
    all = *from;
    all.struct_size = size;
    memcpy(to, &all, size);
    return HYPERATTN_OK;
}
