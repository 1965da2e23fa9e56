/* SPDX-License-Identifier: Apache-2.0 */
#include "multipole_choices.h"

#include <stdlib.h>

#include "cpu/multipole.h"

/* Where choices go. Calls are made with one thread. */
static multipole_choices *taken;

static int64_t *copy(const uint32_t *from, int64_t n)
{
    int64_t *to = calloc((size_t)n + 1, sizeof *to);
    for (int64_t i = 0; i < n; i++)
        to[i] = from[i];
    return to;
}

/* The keys at the positions of a past, which has two parts. */
static int64_t *copy_order(const ha_walk_bundle *b)
{
    int64_t *to = calloc((size_t)b->past + 1, sizeof *to);
    for (int64_t x = 0; x < b->past; x++)
        to[x] = *ha_past_keys(b->era.order, &b->era.era, x);
    return to;
}

static bundle_choices choices_of(const ha_bundle_walk *walk, const ha_walk_bundle *b)
{
    const hyperattn_problem *p = walk->call->plan->problem;
    const ha_era epoch = ha_epoch_at(b->era.kh->layout, &b->era.recipe, p->causal, walk->number);
    const ha_bundle_work *w = b->work;
    const ha_hits *hits = b->hits;
    int64_t head = b->era.kh->query0 + b->era.head;
    bundle_choices c = {
        .b = head / p->nheads, .h = head % p->nheads,
        .epoch_row0 = epoch.q0, .nepoch = epoch.nq,
        .nrows = b->at.rows, .nsteering = b->steering.rows, .past = b->past,
        .ncandidates = w->ncandidates, .nselected = w->nselected,
        .rows = copy(b->at.index, b->at.rows),
        .steering = copy(b->steering.index, b->steering.rows),
        .keys = copy_order(b),
        .candidates = copy(w->candidates, w->ncandidates),
        .selected = copy(w->selected, w->nselected),
        .begin = calloc((size_t)b->at.rows + 1, sizeof *c.begin),
        .private = hits ? copy(hits->position, hits->begin[b->at.rows]) : NULL,
    };
    for (int64_t i = 0; hits && i <= b->at.rows; i++)
        c.begin[i] = hits->begin[i];
    return c;
}

int __real_ha_walk_open(const ha_bundle_walk *walk, int64_t place, int64_t item, int thread,
                        ha_walk_bundle *b);
int __wrap_ha_walk_open(const ha_bundle_walk *walk, int64_t place, int64_t item, int thread,
                        ha_walk_bundle *b);

int __wrap_ha_walk_open(const ha_bundle_walk *walk, int64_t place, int64_t item, int thread,
                        ha_walk_bundle *b)
{
    int any = __real_ha_walk_open(walk, place, item, thread, b);
    if (!any || !taken)
        return any;
    if ((taken->n & (taken->n - 1)) == 0) /* room for the next power of two */
        taken->bundles = realloc(taken->bundles,
                                 (size_t)(2 * taken->n + 1) * sizeof *taken->bundles);
    taken->bundles[taken->n++] = choices_of(walk, b);
    return any;
}

const char *multipole_run(tensors *t, const hyperattn_params *params, const char *level,
                          multipole_choices *c)
{
    *c = (multipole_choices){NULL, 0};
    const char *why = tensors_run(t, params, level, 1);
    taken = c;
    why = why ? why : tensors_run_backward(t, params, level, 1);
    taken = NULL;
    return why;
}

void multipole_choices_free(multipole_choices *c)
{
    for (int64_t x = 0; x < c->n; x++) {
        free(c->bundles[x].rows);
        free(c->bundles[x].steering);
        free(c->bundles[x].keys);
        free(c->bundles[x].candidates);
        free(c->bundles[x].selected);
        free(c->bundles[x].begin);
        free(c->bundles[x].private);
    }
    free(c->bundles);
    *c = (multipole_choices){NULL, 0};
}

/* ---- what must hold -------------------------------------------------------------------------- */

/* Marks n numbers below `end` in `seen`, which must not have been marked. */
static const char *mark(char *seen, int64_t end, const int64_t *number, int64_t n, const char *what)
{
    for (int64_t i = 0; i < n; i++)
        if (number[i] < 0 || number[i] >= end || seen[number[i]]++)
            return failure("%s %lld is twice there, or not below %lld", what, (long long)number[i],
                           (long long)end);
    return NULL;
}

static const char *check_bundle(const bundle_choices *c)
{
    char *keys = calloc((size_t)c->past + 1, 1), *chosen = calloc((size_t)c->past + 1, 1);
    const char *why = mark(keys, c->past, c->keys, c->past, "key");
    why = why ? why : mark(chosen, c->past, c->selected, c->nselected, "selected key");
    for (int64_t i = 0; i < c->nrows && !why; i++) {
        for (int64_t x = c->begin[i]; x < c->begin[i + 1] && !why; x++)
            why = mark(chosen, c->past, &c->keys[c->private[x]], 1, "private key");
        for (int64_t x = c->begin[i]; x < c->begin[i + 1]; x++)
            chosen[c->keys[c->private[x]]] = 0;
    }
    free(keys);
    free(chosen);
    return why;
}

const char *multipole_choices_check(const multipole_choices *c, const tensors *t)
{
    char *rows = calloc((size_t)t->rows + 1, 1);
    const char *why = NULL;
    for (int64_t x = 0; x < c->n && !why; x++) {
        const bundle_choices *b = &c->bundles[x];
        int64_t first = tensors_row(t, b->b, b->h, 0);
        why = mark(rows + first, tensors_nrows(t, T_Q, b->b), b->rows, b->nrows, "row");
        why = why ? why : check_bundle(b);
    }
    free(rows);
    return why;
}
