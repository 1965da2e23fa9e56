/* SPDX-License-Identifier: Apache-2.0
 *
 * What hyperattn compare sets beside each other: methods, one line each in the table of methods.c,
 * and where a method takes budgets, one entry for each of them.
 */
#ifndef BENCH_METHODS_H
#define BENCH_METHODS_H

#include <argp.h>

#include "hyperattn.h"

enum {
    TAKES_HYPER = 1,  /* the HyperAttention options */
    TAKES_BUDGET = 2, /* --budgets */
    TAKES_TARGET = 8, /* nothing but --target-error makes it another than exact */
    IS_BASELINE = 4   /* no method of the library's: baseline.h */
};

typedef struct method_info {
    const char *name;   /* in --methods, tables and results */
    const char *title;  /* in figures and on the progress line */
    const char *colour; /* in figures */
    hyperattn_method method;
    unsigned is; /* of the above */
} method_info;

typedef struct entry {
    const method_info *method;
    int budget; /* 0: none, or the method's own default */
} entry;

enum { MAX_ENTRIES = 32 };

typedef struct entry_list {
    int count;
    entry e[MAX_ENTRIES]; /* the first is exact attention, which the others are compared with */
} entry_list;

/* The names of all methods, for messages and help. */
#define METHOD_NAMES "exact, hyper, multipole, auto, baseline"

/* methods: names separated by commas; budgets: numbers, or NULL. Ends the program with a message
 * and status 2 where they are wrong. Exact attention is put first, listed or not. */
void parse_entries(struct argp_state *state, const char *methods, const char *budgets,
                   entry_list *list);

/* All that its entries' methods are, together. */
unsigned entries_are(const entry_list *list);

/* The method of a name from the table. */
const method_info *method_named(const char *name);

/* base with what the entry changes. */
void entry_params(hyperattn_params *params, const hyperattn_params *base, const entry *e);

#endif
