/* SPDX-License-Identifier: Apache-2.0
 *
 * Two elements are the same where sum_a i_a s_a - sum_b j_b t_b is the distance of the tensors.
 * Axes of one stride count by their difference i - j alone. Taken from the largest stride on, an
 * axis has few values that the smaller ones, whose whole span is known, can make up for: in arrays
 * whose axes are nested, two. No sum overflows: each is at most two tensors' extents.
 */
#include "overlap.h"

/* Values that may be tried before the answer is given up. */
#define TRIES 128

/* A term index * stride with index in [low, high] of the sum. */
typedef struct term {
    int64_t stride, low, high;
} term;

typedef struct sum {
    term terms[2 * HA_AXES]; /* by stride, largest first */
    int n;
    int64_t least[2 * HA_AXES + 1], most[2 * HA_AXES + 1]; /* of the terms from one on */
    int tries;
} sum;

static void add_axis(sum *s, int64_t stride, int64_t low, int64_t high)
{
    int at = 0;
    if (low == high || stride == 0)
        return;
    while (at < s->n && s->terms[at].stride > stride)
        at++;
    if (at == s->n || s->terms[at].stride != stride) {
        for (int i = s->n++; i > at; i--)
            s->terms[i] = s->terms[i - 1];
        s->terms[at] = (term){.stride = stride};
    }
    s->terms[at].low += low;
    s->terms[at].high += high;
}

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

static int64_t ceil_div(int64_t a, int64_t b)
{
    return a / b + (a % b > 0);
}

/* Whether the terms from k on can sum up to a value that lies within their span. */
static int reaches(sum *s, int k, int64_t value)
{
    if (k == s->n)
        return 1;
    const term *t = &s->terms[k];
    int64_t from = ceil_div(value - s->most[k + 1], t->stride);
    int64_t to = floor_div(value - s->least[k + 1], t->stride);
    from = from > t->low ? from : t->low;
    to = to < t->high ? to : t->high;
    for (int64_t i = from; i <= to; i++)
        if (s->tries-- <= 0 || reaches(s, k + 1, value - i * t->stride))
            return 1;
    return 0;
}

static int share_elements(const ha_region *a, const ha_region *b, int64_t distance)
{
    sum s = {.tries = TRIES};
    for (int i = 0; i < HA_AXES; i++) {
        add_axis(&s, a->stride[i], 0, a->size[i] - 1);
        add_axis(&s, b->stride[i], 1 - b->size[i], 0);
    }
    for (int i = s.n - 1; i >= 0; i--) {
        s.least[i] = s.least[i + 1] + s.terms[i].low * s.terms[i].stride;
        s.most[i] = s.most[i + 1] + s.terms[i].high * s.terms[i].stride;
    }
    return s.least[0] <= distance && distance <= s.most[0] && reaches(&s, 0, distance);
}

int ha_overlap(const ha_region *a, const ha_region *b)
{
    uintptr_t x = (uintptr_t)a->ptr, y = (uintptr_t)b->ptr;
    if (!a->bytes || !b->bytes || (x < y ? y - x >= a->bytes : x - y >= b->bytes))
        return 0;
    if (!a->element || a->element != b->element || (x < y ? y - x : x - y) % a->element)
        return 1;
    int64_t distance = (int64_t)((x < y ? y - x : x - y) / a->element);
    return share_elements(a, b, x < y ? distance : -distance);
}
