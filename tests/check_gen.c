/* SPDX-License-Identifier: Apache-2.0
 *
 * The generated inputs of the hyperattn program: what bench/gen.h says of each kind.
 */
#include <math.h>
#include <string.h>

#include "checkmain.h"
#include "gen.h"

enum { DIM = 64 };

/* Queries and keys of one kind: [heads][rows][DIM] and [1][rows][DIM]. */
typedef struct made {
    float *q, *k;
    int64_t heads, rows;
} made;

static gen_spec spec_of(gen_kind kind, uint64_t seed, int64_t heads)
{
    return (gen_spec){
        .kind = kind, .seed = seed, .sharpness = 1, .heads = heads, .heads_kv = 1, .dim = DIM};
}

static float *fill(const gen_spec *spec, gen_tensor tensor, int64_t rows)
{
    int64_t heads = tensor == GEN_Q || tensor == GEN_DOUT ? spec->heads : spec->heads_kv;
    float *x = calloc((size_t)(heads * rows), DIM * sizeof *x);
    ck_assert_ptr_nonnull(x);
    ck_assert_int_eq(gen_fill(spec, tensor, rows, HYPERATTN_F32, x), 0);
    return x;
}

static made make(gen_kind kind, int64_t heads, int64_t rows)
{
    gen_spec spec = spec_of(kind, 3, heads);
    return (made){fill(&spec, GEN_Q, rows), fill(&spec, GEN_K, rows), heads, rows};
}

static void made_free(made *m)
{
    free(m->q);
    free(m->k);
}

static const float *query(const made *m, int64_t head, int64_t i)
{
    return m->q + (head * m->rows + i) * DIM;
}

/* |q - weight k_j|^2 / DIM: the square of the noise's weight if that is the wanted key. */
static double distance(const made *m, const float *q, double weight, int64_t j)
{
    double sum = 0;
    for (int c = 0; c < DIM; c++) {
        double diff = q[c] - weight * m->k[j * DIM + c];
        sum += diff * diff;
    }
    return sum / DIM;
}

static int64_t nearest(const made *m, const float *q, double weight)
{
    int64_t best = 0;
    for (int64_t j = 1; j < m->rows; j++)
        if (distance(m, q, weight, j) < distance(m, q, weight, best))
            best = j;
    return best;
}

START_TEST(a_longer_input_begins_with_a_shorter_one)
{
    const int64_t rows = 300, fewer = 130;
    for (int kind = 0; kind < GEN_KINDS; kind++) {
        gen_spec spec = spec_of((gen_kind)kind, 1, 1), other = spec_of((gen_kind)kind, 2, 1);
        for (int tensor = GEN_Q; tensor <= GEN_DOUT; tensor++) {
            float *whole = fill(&spec, (gen_tensor)tensor, rows);
            float *part = fill(&spec, (gen_tensor)tensor, fewer);
            float *changed = fill(&other, (gen_tensor)tensor, fewer);
            size_t bytes = (size_t)fewer * DIM * sizeof *part;
            ck_assert_msg(!memcmp(whole, part, bytes), "kind %d, tensor %d", kind, tensor);
            ck_assert_msg(memcmp(changed, part, bytes), "kind %d, tensor %d", kind, tensor);
            free(whole);
            free(part);
            free(changed);
        }
    }
}
END_TEST

START_TEST(a_needle_is_one_earlier_key)
{
    made m = make(GEN_NEEDLE, 2, 400);
    int64_t late = 0, differ = 0;
    for (int64_t i = 0; i < m.rows; i++) {
        int64_t wanted[2];
        for (int64_t head = 0; head < 2; head++) {
            const float *q = query(&m, head, i);
            wanted[head] = nearest(&m, q, 1.6);
            ck_assert_int_le(wanted[head], i);
            ck_assert_double_eq_tol(distance(&m, q, 1.6, wanted[head]), 0.09, 0.07);
        }
        late += wanted[0] > i / 2;
        differ += wanted[0] != wanted[1];
    }
    /* anywhere among them, and not where the other head's is */
    ck_assert_int_gt(late, m.rows * 4 / 10);
    ck_assert_int_lt(late, m.rows * 6 / 10);
    ck_assert_int_gt(differ, m.rows * 9 / 10);
    made_free(&m);
}
END_TEST

START_TEST(perm_wants_every_key_once)
{
    made m = make(GEN_PERM, 2, 512);
    for (int64_t head = 0; head < 2; head++) {
        int times[512] = {0}, fixed = 0;
        for (int64_t i = 0; i < m.rows; i++) {
            const float *q = query(&m, head, i);
            int64_t j = nearest(&m, q, 1.7);
            ck_assert_double_le(distance(&m, q, 1.7, j), 1e-10);
            ck_assert_msg(i ? j < 2 * i && i < 2 * (j ? j : 1) : j == 0, "%lld wants %lld",
                          (long long)i, (long long)j);
            times[j]++;
            fixed += i == j;
        }
        for (int64_t j = 0; j < m.rows; j++)
            ck_assert_int_eq(times[j], 1);
        ck_assert_int_lt(fixed, 40);
    }
    made_free(&m);
}
END_TEST

START_TEST(needle64_has_64_long_keys)
{
    made m = make(GEN_NEEDLE64, 1, 8192 + 300);
    int64_t needle[64], count = 0;
    const float zero[DIM] = {0};
    for (int64_t j = 0; j < m.rows; j++) {
        if (distance(&m, zero, 1, j) < 2.2)
            continue;
        ck_assert_int_lt(count, 64);
        ck_assert_int_eq(j / 128, count);
        needle[count++] = j;
    }
    ck_assert_int_eq(count, 64);
    int last = 0;
    for (int64_t i = 0; i < m.rows; i += i < 8192 ? 7 : 1) {
        int found = 0;
        for (int c = 0; c < 64; c++) {
            if (distance(&m, query(&m, 0, i), 1.2, needle[c]) > 2.2)
                continue;
            ck_assert_int_le(c, i < 256 ? 0 : i / 128 - 1);
            found++;
            last += c == 63;
        }
        ck_assert_msg(found == 1, "query %lld leans on %d needles", (long long)i, found);
    }
    ck_assert_int_gt(last, 0);
    made_free(&m);
}
END_TEST

int main(void)
{
    TCase *topic = topic_begin("gen");
    tcase_set_timeout(topic, 120);
    tcase_add_test(topic, a_longer_input_begins_with_a_shorter_one);
    tcase_add_test(topic, a_needle_is_one_earlier_key);
    tcase_add_test(topic, perm_wants_every_key_once);
    tcase_add_test(topic, needle64_has_64_long_keys);
    return topic_end();
}
