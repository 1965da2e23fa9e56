/* SPDX-License-Identifier: Apache-2.0
 *
 * A valid problem that a test breaks in one place, and how its refusal must look.
 */
#ifndef REFUSAL_H
#define REFUSAL_H

#include "testutil.h"

/* A context with a counting allocator, and a problem and params to break. */
typedef struct fixture {
    allocs memory;
    int64_t live; /* blocks of the context alone */
    hyperattn_ctx *ctx;
    hyperattn_problem problem; /* 2 x 4/2 heads, 40 x 48 rows, dims 16 and 24 */
    hyperattn_params params;   /* method HYPER, which reads all of them */
} fixture;

/* Returns why it could not. fixture_end also says if a block is still allocated. */
const char *fixture_begin(fixture *f);
const char *fixture_end(fixture *f);

/* Says why the plan cannot be created. */
const char *accepts(fixture *f);

/* Says what is wrong with the refusal: another status, a text without name, a plan that is not
 * NULL, a block that stays allocated. */
const char *refuses(fixture *f, hyperattn_status want, const char *name);

/* The same for EINVAL, where the text must hold the value too. */
const char *refuses_value(fixture *f, const char *name, long long value);

#endif
