/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/choices.h"

#include <math.h>
#include <string.h>

#include "algo/select.h"
#include "int64.h"

/* Rows that must hit a key for it to be selected. Two private keys cost less than a selected one,
 * but all rows gain by a selected key, those too that did not hit it. */
#define LEAST_VOTES 2

/* In place of votes: of sinks, which every row attends to anyway. */
#define NOT_PRIVATE (HA_BUNDLE_ROWS + 1)

/* Keys of the past that a private key costs as much as. */
#define PRIVATE_COST 20

/* ---- candidates ------------------------------------------------------------------------------ */

static void choose_cells(const ha_cpu_plan *plan, ha_bundle_work *w, const ha_past *past)
{
    int64_t ld = ha_cells_ldk(plan);
    const ha_rows keys = {past->cells->key, ld, NULL, 0, HYPERATTN_F32};
    const ha_scores scores = {w->cell_score, w->mean, ld, keys, past->ncells,
                              plan->problem->head_dim, 1, plan->problem->softmax_scale * HA_LOG2E};
    plan->kernels->score_rows(&scores);
    for (int64_t x = 0; x < past->ncells; x++) {
        float mass = past->cells->mass[x];
        w->rank[x] = mass == -INFINITY ? 0 : ha_rank_of(mass + w->cell_score[x]);
    }
    w->ncandidates = ha_largest(w->rank, past->ncells, past->r->candidates, w->candidates);
}

/* Scores of n keys, by the mean query. */
static void score_keys(const ha_cpu_plan *plan, const ha_bundle_work *w, const ha_past *past,
                       const uint32_t *keys, int64_t n, float *score)
{
    ha_rows k = past->kh->k;
    k.index = keys;
    const ha_scores scores = {score, w->mean, ha_cells_ldk(plan), k, n, plan->problem->head_dim, 1,
                              plan->problem->softmax_scale * HA_LOG2E};
    plan->kernels->score_rows(&scores);
}

static void list_candidates(const ha_cpu_plan *plan, ha_bundle_work *w, const ha_past *past)
{
    const ha_recipe *r = past->r;
    for (int64_t x = 0; x < w->ncandidates; x++) {
        int64_t first = w->candidates[x] * r->cell, n = ha_min(r->cell, past->keys - first);
        memcpy(w->keys + w->nkeys, ha_past_keys(past->order, past->era, first),
               (size_t)n * sizeof *w->keys);
        w->place[w->candidates[x]] = (int32_t)w->nkeys;
        w->nkeys += n;
    }
    score_keys(plan, w, past, w->keys, w->nkeys, w->key_score);
    for (int64_t j = 0; j < w->nkeys; j++)
        w->gone[j] = (int64_t)w->keys[j] < r->sinks;
}

/* ---- without hits ---------------------------------------------------------------------------- */

/* The heaviest keys of the candidates. */
static void select_heaviest(ha_bundle_work *w, const ha_recipe *r)
{
    for (int64_t j = 0; j < w->nkeys; j++)
        w->rank[j] = w->gone[j] ? 0 : ha_rank_of(w->key_score[j]);
    w->nselected = ha_largest(w->rank, w->nkeys, r->selected, w->selected);
    for (int64_t x = 0; x < w->nselected; x++) {
        w->gone[w->selected[x]] = 1;
        w->selected[x] = w->keys[w->selected[x]];
    }
}

/* ---- by hits --------------------------------------------------------------------------------- */

/* Behind the last position of a cell that can have votes. */
static int64_t end_of_votes(const ha_hits *hits, const ha_past *past, int64_t cell)
{
    int64_t first = cell * past->r->cell;
    return hits->touched[cell] ? ha_min(past->keys, first + past->r->cell) : first;
}

/* What the hits of a bundle come to. */
typedef struct tally {
    int least;          /* votes that make a key selected */
    int64_t selected;
    int64_t in_private; /* votes of the others */
} tally;

/* As few votes as pay make a key selected, or more where too many keys have them. */
static tally count_votes(const ha_hits *hits, const ha_past *past)
{
    int64_t keys[NOT_PRIVATE + 1] = {0}; /* with so many votes */
    tally t = {NOT_PRIVATE, 0, 0};
    for (int64_t cell = 0; cell < past->ncells; cell++) {
        int64_t first = cell * past->r->cell, end = end_of_votes(hits, past, cell);
        const uint32_t *key = ha_past_keys(past->order, past->era, first);
        for (int64_t x = first; x < end; x++) {
            if (key[x - first] < past->r->sinks)
                hits->votes[x] = NOT_PRIVATE;
            keys[hits->votes[x]]++;
        }
    }
    while (t.least > LEAST_VOTES && t.selected + keys[t.least - 1] <= past->r->selected)
        t.selected += keys[--t.least];
    for (int votes = 1; votes < t.least; votes++)
        t.in_private += votes * keys[votes];
    return t;
}

/* Whether the past is cheaper than what the bundle would make of it. */
static int is_crowded(const ha_bundle_work *w, const tally *t, int64_t past)
{
    return past <= HA_CROWDED_PAST &&
           t->selected * w->nrows + PRIVATE_COST * t->in_private > past * w->nrows;
}

/* The past, but for the sinks, as selected keys. */
static void select_all(ha_bundle_work *w, const ha_past *past)
{
    w->all = 1;
    for (int64_t key = past->r->sinks; key < past->keys; key++)
        w->selected[w->nselected++] = (uint32_t)key;
}

static void select_position(ha_bundle_work *w, const ha_past *past, int64_t position)
{
    int32_t place = w->place[position >> past->r->cell_bits];
    uint32_t key = *ha_past_keys(past->order, past->era, position);
    w->position[w->nselected] = (uint32_t)position;
    w->selected[w->nselected++] = key;
    if (place >= 0) {
        w->gone[place + (position & (past->r->cell - 1))] = 1;
        return;
    }
    w->apart[w->napart] = (uint32_t)position;
    w->apart_key[w->napart++] = key;
}

/* The keys that so many rows hit that it is cheaper to attend to them as one. */
static void select_hit(const ha_cpu_plan *plan, ha_bundle_work *w, const ha_past *past,
                       ha_hits *hits, int least)
{
    for (int64_t cell = 0; cell < past->ncells; cell++) {
        int64_t end = end_of_votes(hits, past, cell);
        for (int64_t x = cell * past->r->cell; x < end; x++)
            if (hits->votes[x] >= least && hits->votes[x] < NOT_PRIVATE)
                select_position(w, past, x);
    }
    ha_hits_keep_below(hits, least, w->nrows);
    score_keys(plan, w, past, w->apart_key, w->napart, w->apart_score);
}

/* ---- all choices ----------------------------------------------------------------------------- */

static void clear(ha_bundle_work *w, int64_t cells)
{
    w->all = 0;
    w->ncandidates = w->nkeys = w->nselected = w->napart = w->columns.n = 0;
    for (int64_t x = 0; x < cells; x++)
        w->place[x] = w->column[x] = -1;
}

void ha_choose(const ha_cpu_plan *plan, ha_bundle_work *w, const ha_past *past, ha_hits *hits)
{
    tally votes = {0, 0, 0};
    clear(w, past->ncells);
    if (hits && !hits->crowded)
        votes = count_votes(hits, past);
    if (hits && (hits->crowded || is_crowded(w, &votes, past->keys))) {
        select_all(w, past);
        return;
    }
    choose_cells(plan, w, past);
    list_candidates(plan, w, past);
    if (hits)
        select_hit(plan, w, past, hits, votes.least);
    else
        select_heaviest(w, past->r);
}

void ha_leave_private(const ha_bundle_work *w, const ha_past *past, ha_hits *hits)
{
    for (int64_t h = 0; h < hits->begin[w->nrows]; h++) {
        uint32_t position = hits->position[h];
        if ((int64_t)*ha_past_keys(past->order, past->era, position) < past->r->sinks)
            hits->votes[position] = NOT_PRIVATE;
    }
    for (int64_t x = 0; x < w->nselected; x++)
        hits->votes[w->position[x]] = NOT_PRIVATE;
    ha_hits_keep_below(hits, NOT_PRIVATE, w->nrows);
}
