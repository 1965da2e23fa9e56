/* SPDX-License-Identifier: Apache-2.0
 *
 * Whether tensors share memory: against the bytes themselves for random small shapes, and tensors
 * that lie in the gaps of each other in calls.
 */
#include <string.h>

#include "checkmain.h"
#include "overlap.h"
#include "tensors.h"

/* ---- against the bytes --------------------------------------------------------------------- */

enum { ARENA = 1 << 16 };

static unsigned char arena[ARENA];

static void mark(const ha_region *r, int64_t at, int axis, unsigned char bit)
{
    for (int64_t i = 0; axis < HA_AXES && i < r->size[axis]; i++)
        mark(r, at + i * r->stride[axis], axis + 1, bit);
    if (axis == HA_AXES) {
        int64_t byte = (const unsigned char *)r->ptr - arena + at * (int64_t)r->element;
        ck_assert(byte >= 0 && byte + (int64_t)r->element <= ARENA);
        for (size_t i = 0; i < r->element; i++)
            arena[byte + (int64_t)i] |= bit;
    }
}

static int share_bytes(const ha_region *a, const ha_region *b)
{
    memset(arena, 0, sizeof arena);
    mark(a, 0, 0, 1);
    mark(b, 0, 0, 2);
    return memchr(arena, 3, sizeof arena) != NULL;
}

/* A region's extent follows from its axes. */
static void place(ha_region *r, int64_t element, int64_t at)
{
    int64_t last = 1;
    for (int i = 0; i < HA_AXES; i++)
        last += (r->size[i] - 1) * r->stride[i];
    r->ptr = arena + at * element;
    r->element = (size_t)element;
    r->bytes = (size_t)(last * element);
}

static const char *text_of(const ha_region *r)
{
    static char text[2][256];
    static int turn;
    char *t = text[turn ^= 1];
    snprintf(t, sizeof text[0], "at %td: %lld x %lld x %lld x %lld by %lld, %lld, %lld, %lld",
             (const unsigned char *)r->ptr - arena, (long long)r->size[0], (long long)r->size[1],
             (long long)r->size[2], (long long)r->size[3], (long long)r->stride[0],
             (long long)r->stride[1], (long long)r->stride[2], (long long)r->stride[3]);
    return t;
}

/* An overlap is always found; a gap is, where `exact`. Returns whether the answer was right. */
static int compare(const ha_region *a, const ha_region *b, int exact)
{
    int got = ha_overlap(a, b), want = share_bytes(a, b);
    ck_assert_msg(got == want || (want == 0 && !exact), "%s and %s: %d, not %d", text_of(a),
                  text_of(b), got, want);
    ck_assert_int_eq(ha_overlap(b, a), got);
    return got == want;
}

/* Two slices of one array whose axes lie in any order, with gaps: equal strides, other extents. */
START_TEST(slices_of_one_array_are_told_exactly)
{
    rng r = rng_new(5);
    int rounds = emulated() ? 2000 : 20000, shared = 0;
    if (emulated())
        printf("reduced: %d pairs of slices\n", rounds);
    for (int round = 0; round < rounds; round++) {
        ha_region a = {0}, b = {0};
        int order[HA_AXES] = {0, 1, 2, 3};
        for (int i = HA_AXES - 1; i > 0; i--) {
            int j = (int)rng_below(&r, i + 1), swap = order[i];
            order[i] = order[j];
            order[j] = swap;
        }
        int64_t stride = 1, array = 1;
        for (int i = 0; i < HA_AXES; i++) {
            int64_t size = 1 + rng_below(&r, 5), slot = 1 + rng_below(&r, 2);
            int axis = order[i];
            a.size[axis] = 1 + rng_below(&r, size);
            b.size[axis] = 1 + rng_below(&r, size);
            a.stride[axis] = b.stride[axis] = stride;
            array = stride * size;
            stride = array * slot + rng_below(&r, 2);
        }
        for (int i = 0; i < HA_AXES; i++) { /* of one index, so that it never counts */
            if (a.size[i] == 1 && rng_below(&r, 2))
                a.stride[i] = rng_below(&r, 1000);
        }
        int64_t element = 1 << rng_below(&r, 3);
        place(&a, element, rng_below(&r, stride));
        place(&b, element, rng_below(&r, stride));
        compare(&a, &b, 1);
        shared += share_bytes(&a, &b);
    }
    ck_assert_int_gt(shared, rounds / 20);
    ck_assert_int_lt(shared, rounds - rounds / 20);
}
END_TEST

/* Strides of all kinds, of no kind at all too. */
START_TEST(no_overlap_is_missed)
{
    rng r = rng_new(6);
    int rounds = emulated() ? 2000 : 20000, right = 0;
    if (emulated())
        printf("reduced: %d pairs of any tensors\n", rounds);
    for (int round = 0; round < rounds; round++) {
        ha_region x[2] = {{0}};
        for (int t = 0; t < 2; t++)
            for (int i = 0; i < HA_AXES; i++) {
                x[t].size[i] = 1 + rng_below(&r, 5);
                x[t].stride[i] = rng_below(&r, 3) ? rng_below(&r, 40) * (1 + rng_below(&r, 8))
                                                  : x[0].stride[i];
            }
        int64_t element = 1 << rng_below(&r, 3);
        place(&x[0], element, rng_below(&r, 900));
        place(&x[1], element, rng_below(&r, 900));
        right += compare(&x[0], &x[1], 0);
    }
    printf("%d of %d pairs told exactly\n", right, rounds);
    ck_assert_int_gt(right, rounds * 9 / 10);
}
END_TEST

/* Without elements there is nothing to share, and without axes all bytes count. */
START_TEST(empty_and_solid_regions)
{
    ha_region a = {.size = {1, 1, 4, 2}, .stride = {0, 0, 4, 1}}, b = a;
    place(&a, 4, 0);
    place(&b, 4, 2);
    ck_assert_int_eq(ha_overlap(&a, &b), 0);
    b.element = 0;
    ck_assert_int_eq(ha_overlap(&a, &b), 1);
    b.element = 2;
    ck_assert_int_eq(ha_overlap(&a, &b), 1);
    b.element = 4;
    b.ptr = (const char *)b.ptr + 1; /* between elements */
    ck_assert_int_eq(ha_overlap(&a, &b), 1);
    b.bytes = 0;
    ck_assert_int_eq(ha_overlap(&a, &b), 0);
}
END_TEST

/* Extents near the limit: sums do not wrap. */
START_TEST(huge_tensors)
{
    const int64_t many = INT64_MAX / 32 / 8 * 8;
    ha_region a = {.ptr = (void *)4096,
                   .bytes = (size_t)many * 4 * 2,
                   .element = 4,
                   .size = {2, many / 8, 1, 1},
                   .stride = {many, 8, 0, 1}};
    ha_region b = a;
    for (int64_t i = 0; i < 16; i++) {
        b.ptr = (const char *)a.ptr + 4 * i;
        ck_assert_int_eq(ha_overlap(&a, &b), i % 8 == 0);
        b.ptr = (const char *)a.ptr + 4 * (many + i);
        ck_assert_int_eq(ha_overlap(&a, &b), i % 8 == 0);
    }
}
END_TEST

/* ---- in calls ------------------------------------------------------------------------------ */

enum { B = 2, H = 3, N = 5, D = 4, ALL = B * H * N * 4 * D };

/* q, k, out and v in one array, and the stride of these four. */
static const struct {
    const char *name;
    int64_t stride[3], slot;
} layouts[] = {
    {"[b, head, row, 4, d]", {H * N * 4 * D, N * 4 * D, 4 * D}, D},
    {"[b, row, head, 4, d]", {N * H * 4 * D, 4 * D, H * 4 * D}, D},
    {"[b, row, 4, head, d]", {N * 4 * H * D, D, 4 * H * D}, H * D},
    {"[b, head, 4, row, d]", {H * 4 * N * D, 4 * N * D, D}, N * D},
    {"[b, 4, head, row, d]", {4 * H * N * D, N * D, D}, H * N * D},
    {"[4, b, head, row, d]", {H * N * D, N * D, D}, B * H * N * D},
};

static hyperattn_plan *plan_of(hyperattn_ctx *ctx, const int64_t stride[3])
{
    hyperattn_problem p = problem_of(H, N, D);
    p.batch = B;
    for (int i = 0; i < 3; i++)
        p.q_stride[i] = p.k_stride[i] = p.v_stride[i] = p.out_stride[i] = stride[i];
    hyperattn_plan *plan;
    ck_ok(hyperattn_plan_create(&plan, ctx, &p, NULL));
    return plan;
}

START_TEST(one_array_holds_a_call)
{
    static float x[ALL], dx[ALL + 1], apart[ALL], lse[B * H * N];
    rng r = rng_new(8);
    for (int i = 0; i < ALL; i++)
        x[i] = (float)rng_gauss(&r);
    hyperattn_ctx *ctx = ctx_at(NULL, 1);
    int64_t slot = layouts[_i].slot;
    hyperattn_plan *plan = plan_of(ctx, layouts[_i].stride);
    float *q = x, *k = x + slot, *out = x + 2 * slot, *v = x + 3 * slot;
    float *dq = dx + 1, *dk = dq + slot, *dv = dq + 2 * slot;
    ck_ok(hyperattn_forward(plan, q, k, v, apart, NULL, NULL));
    ck_ok(hyperattn_forward(plan, q, k, v, out, lse, NULL));
    for (int i = 0; i < B * H * N; i++) {
        int64_t at = i / N / H * layouts[_i].stride[0] + i / N % H * layouts[_i].stride[1] +
                     i % N * layouts[_i].stride[2];
        ck_assert_mem_eq(out + at, apart + at, D * sizeof *out);
    }
    ck_ok(hyperattn_backward(plan, q, k, v, out, lse, out, dq, dk, dv, NULL));
    for (int near = -1; near <= 1; near += 2) {
        ck_assert_int_eq(hyperattn_forward(plan, q, k, v, out + near, NULL, NULL),
                         HYPERATTN_EINVAL);
        ck_assert_int_eq(hyperattn_backward(plan, q, k, v, out, lse, out, dq, dk + near, dv, NULL),
                         HYPERATTN_EINVAL);
    }
    hyperattn_plan_destroy(plan);
    hyperattn_ctx_destroy(ctx);
}
END_TEST

int main(void)
{
    TCase *topic = topic_begin("overlap");
    tcase_add_test(topic, slices_of_one_array_are_told_exactly);
    tcase_add_test(topic, no_overlap_is_missed);
    tcase_add_test(topic, empty_and_solid_regions);
    tcase_add_test(topic, huge_tensors);
    tcase_add_loop_test(topic, one_array_holds_a_call, 0, COUNT(layouts));
    return topic_end();
}
