/* SPDX-License-Identifier: Apache-2.0
 *
 * The directions of MULTIPOLE's detector: of deviations in few directions nothing is left out, and
 * of others the eigenvalues are.
 */
#include <math.h>

#include "algo/basis.h"
#include "checkmain.h"

enum { MOST = 48 };

typedef struct fixture {
    float c[MOST * MOST], m[MOST * MOST], query[MOST * HA_BASIS], key[MOST * HA_BASIS];
    float scratch[3 * MOST * MOST + 2 * MOST * HA_BASIS];
    ha_basis basis;
} fixture;

/* Mean products of n rows. */
static void mean_products(float *sum, const float *x, int n, int d)
{
    for (int i = 0; i < d; i++)
        for (int j = 0; j < d; j++) {
            double all = 0;
            for (int row = 0; row < n; row++)
                all += (double)x[row * d + i] * x[row * d + j];
            sum[i * d + j] = (float)(all / n);
        }
}

static void fill(float *x, int n, rng *r)
{
    for (int i = 0; i < n; i++)
        x[i] = (float)rng_gauss(r);
}

static int find(fixture *f, int d)
{
    f->basis.query = f->query;
    f->basis.key = f->key;
    ck_assert_int_le(ha_basis_scratch(d), COUNT(f->scratch));
    return ha_basis_find(&f->basis, f->c, f->m, d, f->scratch);
}

static double product(const float *a, const float *b, int stride_b, int d)
{
    double sum = 0;
    for (int i = 0; i < d; i++)
        sum += (double)a[i] * b[i * stride_b];
    return sum;
}

/* Keys in 10 directions: products of all queries and keys are those in the basis. */
START_TEST(few_directions_tell_all)
{
    static const int dims[] = {10, 16, 33, MOST};
    enum { QUERIES = 96, KEYS = 10 };
    static float q[QUERIES * MOST], x[KEYS * MOST];
    int d = dims[_i];
    rng r = rng_new((uint64_t)d);
    fixture f;
    fill(q, QUERIES * d, &r);
    fill(x, KEYS * d, &r);
    mean_products(f.c, q, QUERIES, d);
    mean_products(f.m, x, KEYS, d);
    ck_assert(find(&f, d));
    double worst = 0, all = 0;
    for (int i = 0; i < QUERIES; i++)
        for (int j = 0; j < KEYS; j++) {
            double exact = product(q + i * d, x + j * d, 1, d), guess = 0;
            for (int b = 0; b < HA_BASIS; b++)
                guess += product(q + i * d, f.query + b, HA_BASIS, d) *
                         product(x + j * d, f.key + b, HA_BASIS, d);
            worst = fmax(worst, fabs(guess - exact));
            all += exact * exact;
        }
    double size = sqrt(all / (QUERIES * KEYS));
    ck_assert_msg(worst < 1e-3 * size, "dimension %d: %g of %g", d, worst, size);
    ck_assert_msg(f.basis.left < 1e-4 * all / (QUERIES * KEYS), "dimension %d: %g is left", d,
                  (double)f.basis.left);
}
END_TEST

/* Axes of falling importance: the first ones are taken, the sum of the others is left. */
START_TEST(the_leading_directions_are_taken)
{
    enum { D = 40 };
    fixture f;
    double left = 0;
    for (int i = 0; i < D; i++)
        for (int j = 0; j < D; j++) {
            f.c[i * D + j] = i == j ? 4 : 0;
            f.m[i * D + j] = i == j ? powf(0.7f, (float)i) : 0;
        }
    for (int i = HA_BASIS; i < D; i++)
        left += 4 * pow(0.7, i);
    ck_assert(find(&f, D));
    ck_assert_double_eq_tol(f.basis.left, left, 0.01 * left);
    ck_assert_double_eq_tol(f.basis.strongest, 2, 0.01);
    for (int i = HA_BASIS + 2; i < D; i++)
        for (int b = 0; b < HA_BASIS - 2; b++)
            ck_assert(fabsf(f.key[i * HA_BASIS + b]) < 0.01f);
}
END_TEST

START_TEST(where_there_is_none_it_says_so)
{
    static const float bad[] = {0, NAN, INFINITY};
    for (int which = 0; which < 2; which++)
        for (int s = 0; s < COUNT(bad); s++) {
            fixture f;
            for (int i = 0; i < MOST * MOST; i++)
                f.c[i] = f.m[i] = i % (MOST + 1) == 0;
            for (int i = 0; i < MOST * MOST; i++)
                (which ? f.m : f.c)[i] *= bad[s];
            ck_assert_msg(!find(&f, MOST), "%s of %g", which ? "M" : "C", (double)bad[s]);
        }
}
END_TEST

int main(void)
{
    TCase *topic = topic_begin("basis");
    tcase_add_loop_test(topic, few_directions_tell_all, 0, 4);
    tcase_add_test(topic, the_leading_directions_are_taken);
    tcase_add_test(topic, where_there_is_none_it_says_so);
    return topic_end();
}
