/* SPDX-License-Identifier: Apache-2.0 */
#include "algo/approxd.h"

#include <math.h>

#include "algo/sortlsh.h"
#include "int64.h"

/* ---- exact blocks ---------------------------------------------------------------------------- */

int64_t ha_block_begin(const ha_blocks *b, int64_t i)
{
    int64_t at = b->block[i] * b->width - b->origin;
    return at < 0 ? 0 : at;
}

int64_t ha_block_end(const ha_blocks *b, int64_t i)
{
    int64_t at = b->block[i] * b->width - b->origin;
    return at > b->total - b->width ? b->total : at + b->width;
}

ha_blocks ha_blocks_trim(ha_blocks b)
{
    while (b.n && b.block[0] * b.width - b.origin + b.width <= 0) {
        b.block++;
        b.n--;
    }
    while (b.n && b.block[b.n - 1] * b.width - b.origin >= b.total)
        b.n--;
    return b;
}

/* Positions in blocks before block i: only the first and the last can be cut. */
static int64_t covered_before(const ha_blocks *b, int64_t i)
{
    return i ? ha_block_end(b, 0) - ha_block_begin(b, 0) + (i - 1) * b->width : 0;
}

int64_t ha_blocks_outside(const ha_blocks *b)
{
    if (!b->n)
        return b->total;
    int64_t last = b->n - 1;
    return b->total - covered_before(b, last) - (ha_block_end(b, last) - ha_block_begin(b, last));
}

/* The position of the x-th key outside the blocks. */
static int64_t outside_position(const ha_blocks *b, int64_t x)
{
    int64_t low = 0, high = b->n; /* the first block that lies behind it */
    while (low < high) {
        int64_t mid = low + (high - low) / 2;
        if (ha_block_begin(b, mid) - covered_before(b, mid) > x)
            high = mid;
        else
            low = mid + 1;
    }
    if (!low)
        return x;
    return x + covered_before(b, low - 1) + ha_block_end(b, low - 1) - ha_block_begin(b, low - 1);
}

static int is_exact(const ha_blocks *b, int64_t position)
{
    int64_t block = (position + b->origin) / b->width, low = 0, high = b->n;
    while (low < high) {
        int64_t mid = low + (high - low) / 2;
        if (b->block[mid] < block)
            low = mid + 1;
        else
            high = mid;
    }
    return low < b->n && b->block[low] == block;
}

/* The predefined mask's key blocks for a query block. */
static ha_blocks mask_blocks(const hyperattn_problem *problem, const hyperattn_block_mask *mask,
                             const ha_rect *rect, int64_t head)
{
    int64_t rows = 1 + (problem->seqlen_q - 1) / mask->query_block, row = rect->mask_row;
    if (mask->per_head)
        row += head % problem->nheads * rows;
    return (ha_blocks){
        .block = mask->key_blocks + mask->row_start[row],
        .n = mask->row_start[row + 1] - mask->row_start[row],
        .width = mask->key_block,
        .origin = rect->k0,
        .total = rect->nk,
    };
}

ha_sampler ha_run_sampler(const hyperattn_problem *problem, const hyperattn_params *params,
                          const ha_layout *layout, const ha_rect *rect, int64_t head,
                          const int64_t *run, const double *mass)
{
    ha_blocks exact = {.block = run, .n = ha_is_sorted(params), .width = params->block_size,
                       .total = rect->nk};
    if (params->block_mask)
        exact = mask_blocks(problem, params->block_mask, rect, head);
    exact = ha_blocks_trim(exact);
    return (ha_sampler){
        .exact = exact,
        .outside = ha_blocks_outside(&exact),
        .draws = params->sample_size,
        .mass = mass,
        .seed = params->seed,
        .head = (uint32_t)head,
        .rect = (uint32_t)(rect - layout->rects),
        .run = (uint32_t)*run,
    };
}

/* ---- samples --------------------------------------------------------------------------------- */

int64_t ha_sample_draws(const ha_sampler *s)
{
    return ha_min(s->draws, s->outside);
}

static ha_words words(const ha_sampler *s, uint32_t index)
{
    return ha_philox(s->seed, index, s->run, HA_STREAM_SAMPLES + 8 * s->rect, s->head);
}

/* One draw from each of m strata of the outside positions. The strata are turned by a random
 * offset, so that each position is drawn with probability m / outside though their sizes differ by
 * one. */
static int64_t draw_uniform(const ha_sampler *s, int64_t first, int64_t max, uint32_t *position,
                            float *log2_weight)
{
    int64_t n = s->outside, m = s->draws;
    ha_words w = words(s, UINT32_MAX);
    int64_t turn = (int64_t)(((uint64_t)w.w[0] << 32 | w.w[1]) % (uint64_t)n);
    float weight = (float)log2((double)n / (double)m);
    for (int64_t i = 0; i < max; i++) {
        int64_t draw = first + i, begin = n * draw / m, end = n * (draw + 1) / m;
        if (i == 0 || draw % 4 == 0)
            w = words(s, (uint32_t)(draw / 4));
        int64_t x = begin + ha_below(w.w[draw % 4], (uint32_t)(end - begin)) + turn;
        position[i] = (uint32_t)outside_position(&s->exact, x < n ? x : x - n);
        log2_weight[i] = weight;
    }
    return max;
}

/* The first position whose running sum exceeds x. */
static int64_t find_mass(const double *mass, int64_t n, double x)
{
    int64_t low = 0, high = n - 1;
    while (low < high) {
        int64_t mid = low + (high - low) / 2;
        if (mass[mid] > x)
            high = mid;
        else
            low = mid + 1;
    }
    return low;
}

/* Draws with replacement, with probability p_j proportional to |v_j|^2 over the whole rectangle and
 * weight 1 / (m p_j); one draw from each of m equal parts of the mass. */
static int64_t draw_vnorm(const ha_sampler *s, int64_t first, int64_t max, uint32_t *position,
                          float *log2_weight)
{
    int64_t n = s->exact.total, got = 0;
    double all = s->mass[n - 1], m = (double)s->draws;
    ha_words w = {{0}};
    for (int64_t i = 0; i < max; i++) {
        int64_t draw = first + i;
        if (i == 0 || draw % 4 == 0)
            w = words(s, (uint32_t)(draw / 4));
        int64_t at = find_mass(s->mass, n, ((double)draw + ha_fraction(w.w[draw % 4])) / m * all);
        double own = s->mass[at] - (at ? s->mass[at - 1] : 0);
        if (own > 0 && !is_exact(&s->exact, at)) {
            position[got] = (uint32_t)at;
            log2_weight[got++] = (float)log2(all / (m * own));
        }
    }
    return got;
}

int64_t ha_sample(const ha_sampler *s, int64_t first, int64_t max, uint32_t *position,
                  float *log2_weight)
{
    if (s->draws >= s->outside) {
        for (int64_t i = 0; i < max; i++) {
            position[i] = (uint32_t)outside_position(&s->exact, first + i);
            log2_weight[i] = 0;
        }
        return max;
    }
    double all = s->mass ? s->mass[s->exact.total - 1] : 0;
    if (all > 0 && isfinite(all))
        return draw_vnorm(s, first, max, position, log2_weight);
    return draw_uniform(s, first, max, position, log2_weight);
}

/* ---- tau, cap and floor ---------------------------------------------------------------------- */

int64_t ha_tau_tiles(const hyperattn_params *params, int64_t nq)
{
    int64_t rows = ha_min(params->sample_size, nq);
    return params->kappa_cap > 0 ? (rows + HA_TAU_ROWS - 1) / HA_TAU_ROWS : 0;
}

ha_tau_rows ha_draw_tau_rows(const hyperattn_params *params, const ha_layout *layout,
                             const ha_rect *rect, int64_t head, int64_t tile,
                             const uint32_t *bounds)
{
    ha_words w = ha_philox(params->seed, (uint32_t)tile, 0,
                           HA_STREAM_TAU_ROWS + 8 * (uint32_t)(rect - layout->rects),
                           (uint32_t)head);
    int64_t run = ha_below(w.w[0], (uint32_t)rect->nruns);
    int64_t all = bounds[run + 1] - bounds[run], rows = ha_min(all, HA_TAU_ROWS);
    int64_t row0 = rect->q0 + bounds[run] + ha_below(w.w[1], (uint32_t)(all - rows + 1));
    return (ha_tau_rows){run, row0, rows};
}

/* A row that holds a NaN says nothing of the others, so it does not count. */
double ha_log2_floor(const hyperattn_params *params, const float *tau, int64_t tiles)
{
    double top = -INFINITY;
    for (int64_t i = 0; i < tiles; i++)
        top = fmax(top, (double)tau[i]);
    return top - log2((double)params->kappa_cap);
}

double ha_cap_divisor(int64_t nk)
{
    return fmax(1, log((double)nk));
}

float ha_log2_cap(double log2_exact, double log2_floor, int64_t nk)
{
    double top = fmax(log2_exact, log2_floor);
    double sum = top == -INFINITY ? top
                                  : top + log2(exp2(log2_exact - top) + exp2(log2_floor - top));
    return (float)(sum - log2(ha_cap_divisor(nk)));
}
