/* SPDX-License-Identifier: Apache-2.0
 *
 * A call that chooses: target_error on the processor. Every query head goes up a ladder of methods
 * (cpu/climb.h); its gradients are those of the method at which it stays.
 */
#ifndef HA_CHOOSE_H
#define HA_CHOOSE_H

#include "backend.h"

/* The backend's forward_report; per_head may be NULL. */
hyperattn_status ha_choose_forward(const ha_plan *whole, const ha_tensors *t, void *workspace,
                                   hyperattn_choice *per_head, size_t size);

/* Chooses again, into an output of its own, and takes the gradients head by head. */
void ha_choose_backward(const ha_plan *whole, const ha_gradients *t, void *workspace);

size_t ha_choose_workspace(const ha_plan *whole, int backward, int *wraps);

#endif
