/* SPDX-License-Identifier: Apache-2.0
 *
 * What MULTIPOLE chose in one backward call, taken down where it opens a bundle: the linker's
 * --wrap leads that call here, so that these are the choices that backward worked with, and no
 * others like them. Nothing in it is a number that the library computed from q, k or v: only
 * orders and sets.
 */
#ifndef MULTIPOLE_CHOICES_H
#define MULTIPOLE_CHOICES_H

#include "tensors.h"

/* Rows that share their selected keys and columns. */
typedef struct bundle_choices {
    int64_t b, h;             /* sequence and query head */
    int64_t epoch_row0, nepoch; /* rows whose mean query cells are expanded around */
    int64_t nrows, nsteering, past, ncandidates, nselected;
    int64_t *rows;            /* [nrows] */
    int64_t *steering;        /* [nsteering]: rows whose mean query columns are expanded around */
    int64_t *keys;            /* [past]: the key at each position of the past */
    int64_t *candidates;      /* cells that the bundle expands around its own mean query */
    int64_t *selected;        /* keys */
    int64_t *begin, *private; /* [nrows + 1]; positions of the private keys of each row */
} bundle_choices;

typedef struct multipole_choices {
    bundle_choices *bundles;
    int64_t n;
} multipole_choices;

/* tensors_run and tensors_run_backward, and the choices of the latter. */
const char *multipole_run(tensors *t, const hyperattn_params *params, const char *level,
                          multipole_choices *c);
void multipole_choices_free(multipole_choices *c);

/* Says what is not as every choice must be: a bundle's past is the keys before some position, each
 * once; its rows are in no other bundle; and no key is selected twice, or private to a row twice or
 * as a selected one. */
const char *multipole_choices_check(const multipole_choices *c, const tensors *t);

#endif
