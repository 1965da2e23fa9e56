/* SPDX-License-Identifier: Apache-2.0
 *
 * The interval is a test turned round. For a ratio R, every row has u_i = diff_i - R^2 norm_i, and
 * R is the relative error where these sum to 0 over all rows. That sum is taken as a random one, in
 * which the checked rows stand for all with the weights of a uniform partition of 1, and with them
 * stands one more row, the worst that there can be. This is
 * Gaffke's bound for the mean of a bounded variable, which supposes nothing of its distribution:
 * where all checked rows are without error, it is the limit of Clopper and Pearson for the share of
 * rows that are not, times the most that such a row can be off. The sign of the sum is that of one
 * with exponential weights, as these over their sum are the partition.
 */
#include "algo/measure.h"

#include <math.h>

#include "algo/philox.h"

/* Probability that the error is above the interval, and that it is below. */
#define ONE_SIDE 0.025

static void draw_rows(uint32_t *row, uint64_t seed, ha_stream stream, uint32_t head, int64_t nq,
                      int64_t strips)
{
    for (int64_t strip = 0; strip < strips; strip++) {
        uint32_t word = ha_philox(seed, (uint32_t)strip, 0, head, stream).w[0];
        uint32_t rows = (uint32_t)ha_strip_rows(nq, strips, strip);
        row[strip] = (uint32_t)ha_strip_begin(nq, strips, strip) + ha_below(word, rows);
    }
}

void ha_draw_checked_rows(uint32_t *row, uint64_t seed, uint32_t head, int64_t nq, int64_t strips)
{
    draw_rows(row, seed, HA_STREAM_CHECKED_ROWS, head, nq, strips);
}

void ha_draw_trial_rows(uint32_t *row, uint64_t seed, uint32_t head, int64_t nq, int64_t strips)
{
    draw_rows(row, seed, HA_STREAM_TRIAL_ROWS, head, nq, strips);
}

/* ---- sums of exponential variables ----------------------------------------------------------- */

/* The cumulant function's first two derivatives at t; it is K(t) = -sum ln(1 - coef t). */
typedef struct cumulant {
    double slope, bend;
} cumulant;

static cumulant cumulant_at(const double *coef, int64_t n, double t)
{
    cumulant k = {0, 0};
    for (int64_t i = 0; i < n; i++) {
        double ratio = coef[i] / (1 - coef[i] * t);
        k.slope += ratio;
        k.bend += ratio * ratio;
    }
    return k;
}

/* Where the slope is 0, between the poles low < 0 < high: Newton's steps, and halving where they
 * leave the bracket. */
static double saddle(const double *coef, int64_t n, double low, double high)
{
    double t = 0;
    for (int step = 0; step < 200; step++) {
        const cumulant k = cumulant_at(coef, n, t);
        if (k.slope > 0)
            high = t;
        else
            low = t;
        double next = t - k.slope / k.bend;
        if (!(next > low && next < high))
            next = low + (high - low) / 2;
        if (fabs(next - t) <= 1e-10 * (high - low) || next == t)
            return next;
        t = next;
    }
    return t;
}

/* The approximation of Lugannani and Rice, good to a percent for such sums. */
double ha_exponential_tail(const double *coef, int64_t n)
{
    double least = 0, most = 0;
    for (int64_t i = 0; i < n; i++) {
        least = coef[i] < least ? coef[i] : least;
        most = coef[i] > most ? coef[i] : most;
    }
    if (isinf(most) || most <= 0)
        return isinf(most) ? 1 : 0;
    if (isinf(least) || least >= 0)
        return isinf(least) ? 0 : 1;
    double t = saddle(coef, n, 1 / least, 1 / most);
    const cumulant k = cumulant_at(coef, n, t);
    double value = 0;
    for (int64_t i = 0; i < n; i++)
        value -= log1p(-coef[i] * t);
    double r = copysign(sqrt(value < 0 ? -2 * value : 0), t), w = t * sqrt(k.bend);
    if (fabs(r) < 1e-4)
        return 0.5;
    double density = exp(-r * r / 2) / sqrt(2 * acos(-1));
    return erfc(r / sqrt(2)) / 2 + density * (1 / w - 1 / r);
}

/* ---- the interval ---------------------------------------------------------------------------- */

/* Most that u can be in a row that was not checked, for the square of R. The exact row lies within
 * reach of the centre; where R is above 1, its own norm bounds u too. */
static double highest(const ha_reach *h, double square)
{
    double apart = (h->far + h->reach) * (h->far + h->reach);
    double other = square > 1 ? h->out * h->out * square / (square - 1) : INFINITY;
    return apart < other ? apart : other;
}

/* And the least. */
static double lowest(const ha_reach *h, double square)
{
    double all = square * h->norm * h->norm;
    double other = square < 1 ? h->out * h->out * square / (1 - square) : INFINITY;
    return -(all < other ? all : other);
}

/* Of the rows of a strip that a checked row stands for, itself included, how many are in doubt:
 * sqrt(1 - 1 / rows) of them, the finite population's correction, so that all rows are certain. */
static double in_doubt(int64_t rows)
{
    return sqrt((double)rows * (double)(rows - 1));
}

/* P(R is below the error), or, with side -1, above it, as the checked rows say. Each coefficient
 * is the sum of what is certain, and its own row for as many as there are rows in doubt. */
static double doubt(const ha_checked *c, double square, int side, double *coef)
{
    double certain = 0, n = (double)c->n, worst = 0;
    for (int64_t i = 0; i < c->n; i++) {
        double u = side * (c->diff[i] - square * c->norm[i]), part = in_doubt(c->strip[i]);
        certain += ((double)c->strip[i] - part) * u;
        coef[i] = n * part * u;
    }
    for (int64_t i = 0; i < c->n; i++)
        coef[i] += certain;
    for (int64_t h = 0; h < c->nreaches; h++) {
        double most = side > 0 ? highest(&c->reach[h], square) : -lowest(&c->reach[h], square);
        double at = n * in_doubt(c->longest[h]) * most;
        if (c->longest[h] > 1 && !(at <= worst))
            worst = isnan(at) ? INFINITY : at;
    }
    coef[c->n] = certain + worst;
    return ha_exponential_tail(coef, c->n + 1);
}

/* The square of R between inside, where there is doubt, and outside, where there is too little. */
static double limit(const ha_checked *c, double inside, double outside, int side, double *coef)
{
    for (int step = 0; step < 200 && fabs(log(outside / inside)) > 1e-6; step++) {
        double middle = sqrt(inside) * sqrt(outside);
        if (doubt(c, middle, side, coef) > ONE_SIDE)
            inside = middle;
        else
            outside = middle;
    }
    return inside;
}

static double upper(const ha_checked *c, double square, double *coef)
{
    double start = square > 1e-30 ? square : 1e-30, end = start;
    while (end < 1e60 && doubt(c, end, 1, coef) > ONE_SIDE)
        end *= 16;
    return end < 1e60 ? sqrt(limit(c, start, end, 1, coef)) : INFINITY;
}

static double lower(const ha_checked *c, double square, double *coef)
{
    double end = square;
    while (end > 1e-30 && doubt(c, end, -1, coef) > ONE_SIDE)
        end /= 16;
    return end > 1e-30 ? sqrt(limit(c, square, end, -1, coef)) : 0;
}

ha_error ha_error_interval(const ha_checked *c, double *scratch)
{
    double diff = 0, norm = 0;
    int all = 1;
    for (int64_t i = 0; i < c->n; i++) {
        diff += (double)c->strip[i] * c->diff[i];
        norm += (double)c->strip[i] * c->norm[i];
        all = all && c->strip[i] == 1;
    }
    if (isnan(diff) || isnan(norm) || isinf(diff) || isinf(norm))
        return (ha_error){NAN, NAN, NAN};
    double square = diff == 0 ? 0 : diff / norm;
    if (all)
        return (ha_error){sqrt(square), sqrt(square), sqrt(square)};
    if (isinf(square))
        return (ha_error){INFINITY, 0, INFINITY};
    return (ha_error){sqrt(square), lower(c, square, scratch), upper(c, square, scratch)};
}
