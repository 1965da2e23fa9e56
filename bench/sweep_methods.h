/* SPDX-License-Identifier: Apache-2.0
 *
 * The methods of the library's that hyperattn sweep times, and the columns of each in its results.
 */
#ifndef BENCH_SWEEP_METHODS_H
#define BENCH_SWEEP_METHODS_H

/* In the order in which they take turns. Speed-ups are those over the first. */
enum {
    SWEEP_EXACT,
    SWEEP_HYPER,
    SWEEP_MULTIPOLE,
    SWEEP_METHODS
};

enum {
    PASS_FORWARD,
    PASS_BACKWARD,
    PASS_BOTH,
    PASSES
};

typedef struct sweep_method {
    const char *name;     /* of methods.h */
    const char *backward; /* its backward on the progress line */
    /* keys of columns; NULL: there is none */
    const char *seconds[PASSES], *runs[PASSES], *growth[PASSES], *speedup[PASSES];
    const char *workspace[PASSES];
} sweep_method;

extern const sweep_method sweep_methods[SWEEP_METHODS];

#endif
