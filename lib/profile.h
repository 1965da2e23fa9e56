/* SPDX-License-Identifier: Apache-2.0
 *
 * Where a forward call spends its time: for bench/ only, reached through the convenience library.
 */
#ifndef HA_PROFILE_H
#define HA_PROFILE_H

#include "hyperattn.h"

typedef enum ha_stage {
    HA_STAGE_HASH,    /* projections of queries and keys; columns and codes of cells */
    HA_STAGE_SORT,    /* buckets and counting sorts; content order */
    HA_STAGE_GATHER,  /* loading queries, packing keys and values; samples, columns of bundles */
    HA_STAGE_BLOCK,   /* products with the exact columns: blocks, sinks, window, selected */
    HA_STAGE_SAMPLE,  /* products with other columns; private keys */
    HA_STAGE_LEAF,    /* causal leaves, or all of exact attention */
    HA_STAGE_STATE,   /* loading, storing and finishing row states */
    HA_STAGES
} ha_stage;

/* Seconds summed over threads. */
typedef struct ha_profile {
    double seconds[HA_STAGES];
} ha_profile;

const char *ha_stage_name(ha_stage stage);

/* Every later hyperattn_forward with this plan adds its times to *profile (NULL: stop). The plan
 * then serves one call at a time. */
void ha_plan_profile(hyperattn_plan *plan, ha_profile *profile);

#endif
