/* SPDX-License-Identifier: Apache-2.0
 *
 * A forward or backward call at work: what every stage may need beside its own buffers.
 */
#ifndef HA_CALL_H
#define HA_CALL_H

#include "cpu/deal.h"
#include "cpu/key_head.h"
#include "parallel.h"
#include "profile.h"

typedef struct ha_call {
    const ha_cpu_plan *plan;
    ha_team *team;
    ha_key_head *heads; /* in flight */
    int64_t nheads;
    /* of the stage at work: */
    ha_deal deal;
    void (*body)(void *arg, int64_t place, int64_t item, int thread);
    void *arg;
    ha_profile *profile; /* or NULL */
    ha_profile *seconds; /* [nthreads], while there is a profile */
} ha_call;

/* Runs body(arg, place, item, thread) for items [0, count(arg, place)) of every key head in flight,
 * at its place among them, dealt in turn. */
void ha_for_items(ha_call *call, int64_t (*count)(const void *arg, int64_t place),
                  void (*body)(void *arg, int64_t place, int64_t item, int thread), void *arg);

/* What a call does: all key heads of the plan, or some of them. */
typedef struct ha_some {
    const int64_t *number; /* [n]; NULL: all */
    int64_t n;
    ha_out_rows dk, dv; /* where gradients go instead; base NULL: to the call's tensors */
} ha_some;

void ha_forward_some(const ha_plan *whole, const ha_tensors *t, const ha_some *some,
                     void *workspace);
void ha_backward_some(const ha_plan *whole, const ha_gradients *t, const ha_some *some,
                      void *workspace);

/* The calls of the CPU backend. */
hyperattn_status ha_cpu_forward(const ha_plan *whole, const ha_tensors *t, void *workspace);
hyperattn_status ha_cpu_backward(const ha_plan *whole, const ha_gradients *t,
                                 void *workspace);

/* Bytes of workspace that a call needs; *wraps: they cannot be counted. */
size_t ha_cpu_workspace(const ha_cpu_plan *plan, int backward, int *wraps);

#endif
