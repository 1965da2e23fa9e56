/* SPDX-License-Identifier: Apache-2.0
 *
 * The paper's two parameters of hardness, estimated on the checked rows: alpha, from the norms of
 * the columns of the softmax matrix, and kappa, from what is left of the row sums without the large
 * entries.
 */
#ifndef HA_HARDNESS_H
#define HA_HARDNESS_H

#include "cpu/measure.h"

/* For every check in flight, whose rows are computed: light and column. */
void ha_check_hardness(ha_measure *m);

double ha_check_alpha(const ha_measure *m, const ha_check *c, int64_t head);
double ha_check_kappa(const ha_measure *m, const ha_check *c, int64_t head);

#endif
