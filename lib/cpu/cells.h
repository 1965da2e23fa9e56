/* SPDX-License-Identifier: Apache-2.0
 *
 * MULTIPOLE's cells: the keys of a cell, weighted as a query r weighs them, become one column,
 *     A = log sum_j exp(s r.k_j)   w = softmax   kt = sum w_j k_j   vt = sum w_j v_j
 * which another query q sees with the score A + s (q - r).kt and the value vt. Here r is the mean
 * query of an epoch; a bundle moves the cells to its own mean (cpu/bundle.h).
 *
 * There is no second-order term: the variance of keys says nothing of that of scores where keys
 * vary in directions in which queries do not, as rotary embeddings make them.
 */
#ifndef HA_CELLS_H
#define HA_CELLS_H

#include "cpu/order.h"
#include "int64.h"

/* The cells of an era, as one query head sees them. All scores are log2. */
typedef struct ha_cells {
    float *query;    /* r of each epoch, by the number of its first era: [eras][ldk] */
    float *mass;     /* score of a query 0: A - s r.kt; -inf: no key */
    float *key;      /* kt, [cells][ldk] */
    float *value;    /* vt, [cells][ldv] */
    float *share;    /* log2 w of the key at each position of the past */
} ha_cells;

typedef struct ha_cell_sets {
    ha_cells *cells; /* [in flight][group] */
    struct ha_cells_thread *threads;
} ha_cell_sets;

static inline int64_t ha_cells_ldk(const ha_cpu_plan *plan)
{
    return ha_ldq(&plan->kernels->f32, plan->problem->head_dim);
}

static inline int64_t ha_cells_ldv(const ha_cpu_plan *plan)
{
    return ha_ldq(&plan->kernels->f32, plan->problem->head_dim_v);
}

static inline int ha_is_finite_row(const float *row, int64_t n)
{
    float odd = 0; /* becomes NaN with the first number that is not finite */
    for (int64_t c = 0; c < n; c++)
        odd += row[c] * 0;
    return odd == 0;
}

/* Most cells of any past, and most eras of any sequence. */
int64_t ha_most_cells(const ha_cpu_plan *plan);
int64_t ha_most_eras(const ha_cpu_plan *plan);

void ha_cells_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads, ha_cell_sets *sets);

/* r of an epoch: the mean of its rows. */
void ha_cells_mean(const ha_cpu_plan *plan, const ha_cell_sets *sets, int thread,
                   const ha_key_head *kh, int64_t head, const ha_era *epoch, float *mean);

/* The keys at positions [first, first + n) of a past. */
typedef struct ha_cell {
    int64_t number, first, n;
    const uint32_t *keys;
} ha_cell;

static inline ha_cell ha_cell_at(const ha_recipe *recipe, const ha_order *order,
                                 const ha_era *era, int64_t number)
{
    int64_t first = number * recipe->cell, n = ha_min(recipe->cell, era->end - first);
    return (ha_cell){number, first, n, ha_past_keys(order, era, first)};
}

/* Expands a cell around r, as rows of f32. */
void ha_cells_expand(const ha_cpu_plan *plan, const ha_cell_sets *sets, int thread,
                     const ha_key_head *kh, const ha_cells *cells, const ha_cell *cell,
                     const float *r, int64_t sinks);

/* Rows that become one column: n of them with log2 weights, which are lost. */
typedef struct ha_expansion {
    ha_rows k, v;
    const float *tilt; /* s r.k_j as log2, [n] */
    float *w;
    int64_t n;
    float *key, *value; /* kt and vt */
} ha_expansion;

typedef struct ha_moments {
    float mass; /* log2 of the sum of weights; -inf: all are 0 */
    float tilt; /* s r.kt as log2 */
} ha_moments;

ha_moments ha_expand(const ha_cpu_plan *plan, const ha_expansion *x);

#endif
