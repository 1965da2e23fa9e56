/* SPDX-License-Identifier: Apache-2.0 */
#include "sweep_methods.h"

#include <stddef.h>

const sweep_method sweep_methods[SWEEP_METHODS] = {
    [SWEEP_EXACT] = {
        .name = "exact",
        .backward = "exact backward",
        .seconds = {"exact_seconds", "exact_backward_seconds", "exact_both_seconds"},
        .runs = {"exact_runs", "exact_backward_runs", NULL},
        .workspace = {NULL, "exact_backward_workspace_ratio", NULL},
    },
    [SWEEP_HYPER] = {
        .name = "hyper",
        .backward = "HyperAttention backward",
        .seconds = {"hyper_seconds", "hyper_backward_seconds", "hyper_both_seconds"},
        .runs = {"hyper_runs", "hyper_backward_runs", NULL},
        .growth = {"hyper_growth", NULL, "hyper_both_growth"},
        .speedup = {"speedup", "backward_speedup", "both_speedup"},
        .workspace = {"hyper_workspace_ratio", "hyper_backward_workspace_ratio", NULL},
    },
    [SWEEP_MULTIPOLE] = {
        .name = "multipole",
        .backward = "MULTIPOLE backward",
        .seconds = {"multipole_seconds", "multipole_backward_seconds", "multipole_both_seconds"},
        .runs = {"multipole_runs", "multipole_backward_runs", NULL},
        .growth = {"multipole_growth", NULL, "multipole_both_growth"},
        .speedup = {"multipole_speedup", "multipole_backward_speedup", "multipole_both_speedup"},
        .workspace = {"multipole_workspace_ratio", "multipole_backward_workspace_ratio", NULL},
    },
};
