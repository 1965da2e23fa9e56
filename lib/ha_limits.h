/* SPDX-License-Identifier: Apache-2.0
 *
 * Limits that the algorithms and the kernels share.
 */
#ifndef HA_LIMITS_H
#define HA_LIMITS_H

/* Hash bits: directions of sortLSH. */
#define HA_MAX_PROJS 16

#endif
