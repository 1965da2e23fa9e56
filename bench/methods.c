/* SPDX-License-Identifier: Apache-2.0 */
#include "methods.h"

#include <limits.h>
#include <string.h>

#include "values.h"

static const method_info methods[] = {
    {"exact", "exact", "#666666", HYPERATTN_EXACT, 0},
    {"hyper", "HyperAttention", "#0060ad", HYPERATTN_HYPER, TAKES_HYPER},
    {"multipole", "MULTIPOLE", "#c0392b", HYPERATTN_MULTIPOLE, TAKES_HYPER | TAKES_BUDGET},
    {"auto", "AUTO", "#2e8b57", HYPERATTN_AUTO, TAKES_HYPER | TAKES_TARGET},
    {"baseline", "baseline", "#b8860b", HYPERATTN_EXACT, IS_BASELINE},
};

enum { METHODS = sizeof methods / sizeof methods[0] };

/* The method whose name is the first length characters of text, or NULL. */
static const method_info *find(const char *text, size_t length)
{
    for (int i = 0; i < METHODS; i++) {
        if (strlen(methods[i].name) == length && memcmp(methods[i].name, text, length) == 0)
            return &methods[i];
    }
    return NULL;
}

const method_info *method_named(const char *name)
{
    return find(name, strlen(name));
}

static void add(struct argp_state *state, entry_list *list, const method_info *method, int budget)
{
    if (list->count == MAX_ENTRIES)
        argp_error(state, "--methods, --budgets: more than %d in all", MAX_ENTRIES);
    list->e[list->count++] = (entry){method, budget};
}

/* An entry for each of budgets, or one with the default. */
static void add_with_budgets(struct argp_state *state, entry_list *list, const method_info *method,
                             const char *budgets)
{
    if (!budgets || !(method->is & TAKES_BUDGET)) {
        add(state, list, method, 0);
        return;
    }
    for (const char *at = budgets;; at++) {
        uint64_t budget;
        if (!read_whole(at, &budget, &at) || (*at && *at != ',') || budget < 1 || budget > INT_MAX)
            argp_error(state, "--budgets %s: need whole numbers from 1 to %d, separated by commas",
                       budgets, INT_MAX);
        add(state, list, method, (int)budget);
        if (!*at)
            return;
    }
}

void parse_entries(struct argp_state *state, const char *names, const char *budgets,
                   entry_list *list)
{
    bool seen[METHODS] = {true}; /* exact attention is there already */
    *list = (entry_list){.count = 1, .e = {{&methods[0], 0}}};
    for (const char *at = names;;) {
        size_t length = strcspn(at, ",");
        const method_info *method = find(at, length);
        if (!method)
            argp_error(state, "--methods %s: need some of " METHOD_NAMES, names);
        if (!seen[method - methods])
            add_with_budgets(state, list, method, budgets);
        seen[method - methods] = true;
        if (!at[length])
            break;
        at += length + 1;
    }
    if (budgets && !(entries_are(list) & TAKES_BUDGET))
        argp_error(state, "--budgets: none of the methods takes one");
}

unsigned entries_are(const entry_list *list)
{
    unsigned all = 0;
    for (int i = 0; i < list->count; i++)
        all |= list->e[i].method->is;
    return all;
}

void entry_params(hyperattn_params *params, const hyperattn_params *base, const entry *e)
{
    *params = *base;
    params->method = e->method->method;
    if (e->budget)
        params->budget = e->budget;
}
