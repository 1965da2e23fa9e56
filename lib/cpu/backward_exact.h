/* SPDX-License-Identifier: Apache-2.0
 *
 * Gradients of exact attention: of a causal sequence's leaves, or of the whole.
 *
 * A leaf's rows (of all query heads of a key head, one after the other) and its keys are cut into
 * blocks. A pair of a row block and a key block is one item of work: it recomputes its weights and
 * adds to the sums of both blocks, with five matrix products, the fewest there can be. In step s,
 * row block x meets key block x - s modulo the number of blocks, so that the pairs of one step
 * share no block. A pair waits until its blocks' earlier ones are done: each sum takes its terms in
 * one order, and no two threads touch it at a time. The diagonal, whose causal pairs are half the
 * work, is the last step, and in each step the middle blocks come first, which wait least.
 *
 * Where one side has few blocks and the other many, there would be few pairs at a time. Then there
 * are several copies of the sums of the short side, each for its share of the long one.
 */
#ifndef HA_BACKWARD_EXACT_H
#define HA_BACKWARD_EXACT_H

#include "cpu/call.h"
#include "cpu/sums.h"

/* Copies of the sums of a sequence's rows and keys. */
typedef struct ha_copies {
    int64_t rows, keys;
} ha_copies;

ha_copies ha_copies_of(const ha_cpu_plan *plan, const ha_layout *layout);

typedef struct ha_backward_exact {
    atomic_int_least64_t **progress; /* of the key heads in flight */
    struct ha_pair_thread *threads;
} ha_backward_exact;

void ha_backward_exact_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads,
                             ha_backward_exact *b);

/* Adds what the leaves of the key heads in flight give to their sums. */
void ha_backward_exact_run(ha_call *call, const ha_backward_exact *b, const ha_sums *sums);

#endif
