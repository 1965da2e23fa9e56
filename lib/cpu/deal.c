/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/deal.h"

void ha_deal_carve(ha_carver *c, ha_deal *deal, int64_t most_heads)
{
    deal->count = ha_carve(c, most_heads + 1, sizeof *deal->count);
    deal->begin = ha_carve(c, most_heads + 1, sizeof *deal->begin);
    deal->order = ha_carve(c, most_heads, sizeof *deal->order);
}

void ha_deal_open(ha_deal *deal, int64_t nheads)
{
    deal->nheads = nheads;
    deal->n = 0;
}

void ha_deal_add(ha_deal *deal, int64_t head, int64_t count)
{
    deal->count[head] = count;
    deal->order[head] = (int32_t)head;
    deal->n += count;
}

/* Moves the entry at place i down the heap [0, n) whose smallest count is on top. Of equal counts,
 * the later key head counts as smaller. */
static void sift(ha_deal *deal, int64_t i, int64_t n)
{
    int64_t count = deal->count[i], child;
    int32_t head = deal->order[i];
    for (; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n &&
            (deal->count[child + 1] < deal->count[child] ||
             (deal->count[child + 1] == deal->count[child] &&
              deal->order[child + 1] > deal->order[child])))
            child++;
        if (deal->count[child] > count ||
            (deal->count[child] == count && deal->order[child] < head))
            break;
        deal->count[i] = deal->count[child];
        deal->order[i] = deal->order[child];
    }
    deal->count[i] = count;
    deal->order[i] = head;
}

/* Heapsort: needs no memory. */
static void sort_by_count(ha_deal *deal)
{
    for (int64_t i = deal->nheads / 2; i-- > 0;)
        sift(deal, i, deal->nheads);
    for (int64_t n = deal->nheads - 1; n > 0; n--) {
        int64_t count = deal->count[0];
        int32_t head = deal->order[0];
        deal->count[0] = deal->count[n];
        deal->order[0] = deal->order[n];
        deal->count[n] = count;
        deal->order[n] = head;
        sift(deal, 0, n);
    }
}

void ha_deal_close(ha_deal *deal)
{
    int64_t n = deal->nheads;
    sort_by_count(deal);
    deal->count[n] = 0;
    deal->begin[n] = 0;
    for (int64_t j = n; j > 0; j--)
        deal->begin[j - 1] = deal->begin[j] + (deal->count[j - 1] - deal->count[j]) * j;
}

int64_t ha_deal_at(const ha_deal *deal, int64_t i, int64_t *item)
{
    /* the smallest j whose items begin at or before i: j key heads have the item */
    int64_t low = 1, high = deal->nheads;
    if (deal->nheads > 1 && i < deal->begin[deal->nheads - 1])
        low = high;
    while (low < high) {
        int64_t mid = low + (high - low) / 2;
        if (deal->begin[mid] <= i)
            high = mid;
        else
            low = mid + 1;
    }
    int64_t x = i - deal->begin[low];
    *item = deal->count[low] + x / low;
    return deal->order[x % low];
}
