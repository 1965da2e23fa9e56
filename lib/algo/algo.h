/* SPDX-License-Identifier: Apache-2.0
 *
 * The algorithms' decisions as a table, for modules, which are not linked with the library. Pure
 * functions of problem, params and seed: a module that asks them makes the same choices as the CPU.
 * Structs and constants are those of the headers; Philox is inline (algo/philox.h).
 */
#ifndef HA_ALGO_H
#define HA_ALGO_H

#include "algo/approxd.h"
#include "algo/causal.h"
#include "algo/hyper.h"
#include "algo/measure.h"
#include "algo/sortlsh.h"

struct ha_algo {
    /* Algorithm 4: rectangles and leaves of a sequence */
    void (*layout_build)(ha_layout *layout, const hyperattn_params *params, int causal);
    /* Algorithm 1: hash directions, ranks, orders and runs */
    void (*directions)(float *directions, int r, int64_t head_dim, uint64_t seed,
                       uint32_t key_head);
    void (*gray_ranks)(uint16_t *bits, int64_t n);
    void (*counting_sort)(uint32_t *order, const uint16_t *bucket, int64_t n, int64_t first,
                          int64_t nbuckets, uint32_t *counts);
    void (*run_bounds)(uint32_t *bounds, const ha_rect *rect, const hyperattn_params *params);
    void (*strict_runs)(uint32_t *order, uint32_t *bounds, const ha_rect *rect,
                        const hyperattn_params *params, const uint16_t *rank,
                        const uint16_t *key_rank, uint32_t *counts);
    int64_t (*sort_counts)(const hyperattn_params *params);
    /* Algorithms 2 and 3: samples with their weights, tau's rows, cap and floor */
    ha_sampler (*run_sampler)(const hyperattn_problem *problem, const hyperattn_params *params,
                              const ha_layout *layout, const ha_rect *rect, int64_t head,
                              const int64_t *run, const double *mass);
    int64_t (*sample)(const ha_sampler *s, int64_t first, int64_t max, uint32_t *position,
                      float *log2_weight);
    int64_t (*sample_draws)(const ha_sampler *s);
    int64_t (*tau_tiles)(const hyperattn_params *params, int64_t nq);
    ha_tau_rows (*draw_tau_rows)(const hyperattn_params *params, const ha_layout *layout,
                                 const ha_rect *rect, int64_t head, int64_t tile,
                                 const uint32_t *bounds);
    double (*log2_floor)(const hyperattn_params *params, const float *tau, int64_t tiles);
    float (*log2_cap)(double log2_exact, double log2_floor, int64_t nk);
    /* Algorithm 3: columns and tasks of runs */
    ha_picker (*picker_begin)(const ha_sampler *sampler, const ha_rect *rect,
                              const uint32_t *korder);
    int (*pick)(ha_picker *p, ha_picks *to);
    int64_t (*list_tasks)(ha_task *tasks, const ha_rect *rect, const uint32_t *bounds,
                          int32_t key_head, int32_t head);
    /* hyperattn_measure: the rows that are checked, and the interval */
    void (*draw_checked_rows)(uint32_t *row, uint64_t seed, uint32_t head, int64_t nq,
                              int64_t strips);
    ha_error (*error_interval)(const ha_checked *c, double *scratch);
};

extern const struct ha_algo ha_algo_table;

#endif
