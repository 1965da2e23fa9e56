/* SPDX-License-Identifier: Apache-2.0 */
#include "algo/algo.h"

const struct ha_algo ha_algo_table = {
    .layout_build = ha_layout_build,
    .directions = ha_directions,
    .gray_ranks = ha_gray_ranks,
    .counting_sort = ha_counting_sort,
    .run_bounds = ha_run_bounds,
    .strict_runs = ha_strict_runs,
    .sort_counts = ha_sort_counts,
    .run_sampler = ha_run_sampler,
    .sample = ha_sample,
    .sample_draws = ha_sample_draws,
    .tau_tiles = ha_tau_tiles,
    .draw_tau_rows = ha_draw_tau_rows,
    .log2_floor = ha_log2_floor,
    .log2_cap = ha_log2_cap,
    .picker_begin = ha_picker_begin,
    .pick = ha_pick,
    .list_tasks = ha_list_tasks,
    .draw_checked_rows = ha_draw_checked_rows,
    .error_interval = ha_error_interval,
};
