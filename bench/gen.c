/* SPDX-License-Identifier: Apache-2.0 */
#include "gen.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "algo/philox.h"
#include "convert.h"
#include "internals.h"

enum {
    CLUSTERS = 64,
    KNOT_ROWS = 64, /* rows between two independent values of the slow content */
    NEEDLES = 64,
    NEEDLE_ROWS = 128 /* rows among which each needle is placed */
};

static const double rope_base = 500000.0;

/* What a draw is for; its own space of counters, together with the tensor. */
typedef enum purpose {
    NOISE = 1,
    CENTRE,
    VALUE_CENTRE,
    CLUSTER,
    OFFSET,
    SLOW,
    VALUE_SLOW,
    WANTED,
    NEEDLE_PLACE
} purpose;

/* One thread's memory: rows of dim floats. */
typedef struct scratch {
    float *row, *extra, *cosine, *sine;
} scratch;

/* Box and Muller: two normals from two words. */
static void normal_pair(float *pair, uint32_t a, uint32_t b)
{
    float radius = sqrtf(-2.0f * logf((float)ha_fraction(a)));
    float angle = 6.2831853f * (float)ha_fraction(b);
    pair[0] = radius * cosf(angle);
    pair[1] = radius * sinf(angle);
}

/* x += weight * N, where N depends on seed, purpose, tensor, head and index only. */
static void add_normals(const gen_spec *spec, float *x, float weight, purpose use,
                        gen_tensor tensor, int64_t head, int64_t index)
{
    uint32_t what = (uint32_t)use << 8 | (uint32_t)tensor;
    for (int64_t c = 0; c < spec->dim; c += 4) {
        ha_words words =
            ha_philox(spec->seed, (uint32_t)(c / 4), (uint32_t)index, (uint32_t)head, what);
        float four[4];
        normal_pair(four, words.w[0], words.w[1]);
        normal_pair(four + 2, words.w[2], words.w[3]);
        for (int64_t e = 0; e < 4 && c + e < spec->dim; e++)
            x[c + e] += weight * four[e];
    }
}

/* x += weight * slow_row: between two knots, at variance 1. extra is overwritten. */
static void add_slow(const gen_spec *spec, float *x, float weight, purpose use, int64_t head,
                     int64_t row, float *extra)
{
    int64_t knot = row / KNOT_ROWS;
    float t = (float)(row % KNOT_ROWS) / KNOT_ROWS;
    float norm = sqrtf((1 - t) * (1 - t) + t * t);
    for (int64_t c = 0; c < spec->dim; c++)
        extra[c] = 0;
    add_normals(spec, extra, (1 - t) / norm, use, GEN_K, head, knot);
    add_normals(spec, extra, t / norm, use, GEN_K, head, knot + 1);
    for (int64_t c = 0; c < spec->dim; c++)
        x[c] += weight * extra[c];
}

static void clustered_row(const gen_spec *spec, gen_tensor tensor, int64_t head, int64_t head_kv,
                          int64_t row, float *x)
{
    /* a value belongs to its key's cluster */
    gen_tensor drawn = tensor == GEN_V ? GEN_K : tensor;
    uint32_t what = (uint32_t)CLUSTER << 8 | (uint32_t)drawn;
    ha_words words = ha_philox(spec->seed, 0, (uint32_t)row, (uint32_t)head, what);
    uint32_t cluster = ha_below(words.w[0], CLUSTERS);
    bool value = tensor == GEN_V;
    add_normals(spec, x, 1, value ? VALUE_CENTRE : CENTRE, GEN_K, head_kv, cluster);
    add_normals(spec, x, value ? 1.0f : 0.5f, NOISE, tensor, head, row);
}

/* Channels of the rotary pairs with the lowest frequencies, lowest first. */
static int64_t far_channel(int64_t dim, int64_t place)
{
    int64_t channel = dim / 2 - 1 - place;
    return channel > 0 ? channel : 0;
}

static void llm_query_or_key(const gen_spec *spec, gen_tensor tensor, int64_t head,
                             int64_t head_kv, int64_t row, float *x, float *extra)
{
    int64_t sink = far_channel(spec->dim, 0);
    add_normals(spec, x, tensor == GEN_Q ? 0.5f : 1.0f, OFFSET, tensor, head, 0);
    add_slow(spec, x, 0.9f, SLOW, head_kv, row, extra);
    add_normals(spec, x, 1, NOISE, tensor, head, row);
    if (tensor == GEN_Q) {
        x[sink] = 4;
        return;
    }
    x[far_channel(spec->dim, 1)] += 6;
    x[far_channel(spec->dim, 2)] -= 6;
    x[sink] = row == 0 ? 2.5f * sqrtf((float)spec->dim) : 0;
}

static void llm_value(const gen_spec *spec, int64_t head, int64_t row, float *x, float *extra)
{
    if (row == 0) {
        add_normals(spec, x, 0.05f, NOISE, GEN_V, head, row);
        return;
    }
    add_normals(spec, x, 0.5f, OFFSET, GEN_V, head, 0);
    add_slow(spec, x, 0.7f, VALUE_SLOW, head, row, extra);
    add_normals(spec, x, 0.7f, NOISE, GEN_V, head, row);
}

static void rope_angles(int64_t dim, int64_t row, float *cosine, float *sine)
{
    int64_t half = dim / 2;
    for (int64_t c = 0; c < half; c++) {
        double angle = (double)row * pow(rope_base, -(double)c / (double)half);
        cosine[c] = (float)cos(angle);
        sine[c] = (float)sin(angle);
    }
}

static void rotate(float *x, int64_t dim, const float *cosine, const float *sine)
{
    int64_t half = dim / 2;
    for (int64_t c = 0; c < half; c++) {
        float a = x[c], b = x[c + half];
        x[c] = a * cosine[c] - b * sine[c];
        x[c + half] = b * cosine[c] + a * sine[c];
    }
}

/* ---- queries that want single keys ----------------------------------------------------------- */

static ha_words draw(const gen_spec *spec, purpose use, int64_t head, uint32_t a, uint32_t b)
{
    return ha_philox(spec->seed, a, b, (uint32_t)head, (uint32_t)use << 8 | (uint32_t)GEN_Q);
}

/* The row's place in a random permutation of each range from 2^e to 2^(e+1) - 1. Each round is one:
 * a multiplication by an odd number and an addition modulo 2^e, then an exclusive or with its own
 * upper half. */
static int64_t permuted(const gen_spec *spec, int64_t head, int64_t row)
{
    enum { ROUNDS = 4 };
    uint32_t e = 0;
    while (row >> (e + 1))
        e++;
    if (e == 0)
        return row;
    uint64_t first = (uint64_t)1 << e, mask = first - 1, x = (uint64_t)row - first;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        ha_words words = draw(spec, WANTED, head, e, round);
        x = (x * (words.w[0] | 1) + words.w[1]) & mask;
        x ^= x >> (e + 1) / 2;
    }
    return (int64_t)(first + x);
}

/* The row of a needle of a key head. */
static int64_t needle_row(const gen_spec *spec, int64_t head_kv, uint32_t needle)
{
    ha_words words = draw(spec, NEEDLE_PLACE, head_kv, needle, 0);
    return (int64_t)needle * NEEDLE_ROWS + ha_below(words.w[0], NEEDLE_ROWS);
}

static bool is_needle(const gen_spec *spec, int64_t head_kv, int64_t row)
{
    int64_t needle = row / NEEDLE_ROWS;
    return needle < NEEDLES && row == needle_row(spec, head_kv, (uint32_t)needle);
}

/* The key that a query wants. */
static int64_t wanted_row(const gen_spec *spec, int64_t head, int64_t head_kv, int64_t row)
{
    if (spec->kind == GEN_PERM)
        return permuted(spec, head, row);
    ha_words words = draw(spec, WANTED, head, 0, (uint32_t)row);
    if (spec->kind == GEN_NEEDLE)
        return ha_below(words.w[0], (uint32_t)row + 1);
    int64_t before = row / NEEDLE_ROWS;
    uint32_t count = (uint32_t)(before < 1 ? 1 : before < NEEDLES ? before : NEEDLES);
    return needle_row(spec, head_kv, ha_below(words.w[0], count));
}

static void wanting_row(const gen_spec *spec, gen_tensor tensor, int64_t head, int64_t head_kv,
                        int64_t row, float *x)
{
    bool needles = spec->kind == GEN_NEEDLE64;
    float noise = spec->kind == GEN_NEEDLE ? 0.3f : spec->kind == GEN_PERM ? 0.0f : 1.0f;
    float weight = spec->kind == GEN_NEEDLE ? 1.6f : spec->kind == GEN_PERM ? 1.7f : 2 * 1.2f;
    if (tensor == GEN_Q) {
        add_normals(spec, x, noise, NOISE, tensor, head, row);
        add_normals(spec, x, weight, NOISE, GEN_K, head_kv,
                    wanted_row(spec, head, head_kv, row));
        return;
    }
    bool longer = needles && tensor == GEN_K && is_needle(spec, head_kv, row);
    add_normals(spec, x, longer ? 2.0f : 1.0f, NOISE, tensor, head, row);
}

/* ---- rows ----------------------------------------------------------------------------------- */

static bool of_queries(gen_tensor tensor)
{
    return tensor == GEN_Q || tensor == GEN_DOUT;
}

/* Fills s->row. */
static void make_row(const gen_spec *spec, gen_tensor tensor, int64_t head, int64_t row,
                     const scratch *s)
{
    int64_t group = spec->heads / spec->heads_kv;
    int64_t head_kv = of_queries(tensor) ? head / group : head;
    for (int64_t c = 0; c < spec->dim; c++)
        s->row[c] = 0;
    if (spec->kind == GEN_GAUSS || tensor == GEN_DOUT)
        add_normals(spec, s->row, 1, NOISE, tensor, head, row);
    else if (spec->kind == GEN_CLUSTERED)
        clustered_row(spec, tensor, head, head_kv, row, s->row);
    else if (spec->kind != GEN_LLM)
        wanting_row(spec, tensor, head, head_kv, row, s->row);
    else if (tensor == GEN_V)
        llm_value(spec, head, row, s->row, s->extra);
    else {
        llm_query_or_key(spec, tensor, head, head_kv, row, s->row, s->extra);
        rotate(s->row, spec->dim, s->cosine, s->sine);
    }
    if (tensor == GEN_Q)
        for (int64_t c = 0; c < spec->dim; c++)
            s->row[c] *= (float)spec->sharpness;
}

/* One call's arguments for the threads. */
typedef struct fill {
    const gen_spec *spec;
    gen_tensor tensor;
    int64_t heads, rows;
    hyperattn_dtype dtype;
    char *dst;
    float *memory; /* 4 dim for each thread */
} fill;

/* Row number row of every head: they share the angles. */
static void fill_row(void *fill_pointer, int64_t row, int thread)
{
    const fill *f = fill_pointer;
    int64_t dim = f->spec->dim;
    float *memory = f->memory + thread * 4 * dim;
    scratch s = {memory, memory + dim, memory + 2 * dim, memory + 3 * dim};
    if (f->spec->kind == GEN_LLM && f->tensor <= GEN_K)
        rope_angles(dim, row, s.cosine, s.sine);
    for (int64_t head = 0; head < f->heads; head++) {
        size_t at = (size_t)(head * f->rows + row) * (size_t)dim;
        make_row(f->spec, f->tensor, head, row, &s);
        from_f32(f->dst + at * dtype_size(f->dtype), f->dtype, s.row, dim);
    }
}

int gen_fill(const gen_spec *spec, gen_tensor tensor, int64_t rows, hyperattn_dtype dtype,
             void *dst)
{
    int threads = default_threads();
    fill f = {
        .spec = spec,
        .tensor = tensor,
        .heads = of_queries(tensor) ? spec->heads : spec->heads_kv,
        .rows = rows,
        .dtype = dtype,
        .dst = dst,
        .memory = calloc((size_t)threads, 4 * (size_t)spec->dim * sizeof(float)),
    };
    if (!f.memory)
        return -1;
    run_parallel(threads, rows, fill_row, &f);
    free(f.memory);
    return 0;
}
