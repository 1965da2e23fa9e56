/* SPDX-License-Identifier: Apache-2.0 */
#include "testutil.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernels.h"

#define PATTERN 0xA5

const char *failure(const char *format, ...)
{
    static _Thread_local char text[512];
    char fresh[sizeof text]; /* an argument may be the text of the failure before */
    va_list args;
    va_start(args, format);
    vsnprintf(fresh, sizeof fresh, format, args);
    va_end(args);
    return memcpy(text, fresh, sizeof text);
}

/* ---- guarded memory ------------------------------------------------------------------------ */

static void need(int condition, const char *what)
{
    if (!condition) {
        perror(what);
        abort();
    }
}

/* Pages for size bytes and slack more, between two guard pages, filled with the pattern. */
static guarded guarded_pages(size_t size, size_t slack)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    guarded g = {.size = size};
    g.pages_size = (size + slack + page - 1) / page * page;
    if (g.pages_size == 0)
        g.pages_size = page;
    unsigned char *map = mmap(NULL, g.pages_size + 2 * page, PROT_NONE,
                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(map != MAP_FAILED, "mmap");
    g.pages = map + page;
    guarded_writable(&g);
    memset(g.pages, PATTERN, g.pages_size);
    return g;
}

guarded guarded_new(size_t size, placement at)
{
    guarded g = guarded_pages(size, at == OFF_BY_4 ? 4 : 0);
    if (at == AT_END)
        g.data = g.pages + g.pages_size - size;
    else
        g.data = g.pages + (at == OFF_BY_4 ? 4 : 0);
    return g;
}

guarded guarded_workspace(size_t size)
{
    size_t rounded = (size + 63) / 64 * 64;
    guarded g = guarded_pages(rounded, 0);
    g.data = g.pages + g.pages_size - rounded;
    g.size = size;
    return g;
}

void guarded_free(guarded *g)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (g->pages)
        munmap(g->pages - page, g->pages_size + 2 * page);
    *g = (guarded){0};
}

void guarded_read_only(const guarded *g)
{
    need(mprotect(g->pages, g->pages_size, PROT_READ) == 0, "mprotect");
}

void guarded_writable(const guarded *g)
{
    need(mprotect(g->pages, g->pages_size, PROT_READ | PROT_WRITE) == 0, "mprotect");
}

static const unsigned char *skip_pattern(const unsigned char *from, const unsigned char *end)
{
    while (from < end && *from == PATTERN)
        from++;
    return from;
}

const char *guarded_check(const guarded *g)
{
    const unsigned char *end = g->pages + g->pages_size;
    const unsigned char *written = skip_pattern(g->pages, g->data);
    if (written == g->data)
        written = skip_pattern(g->data + g->size, end);
    if (written == end)
        return NULL;
    return failure("byte %td of a buffer of %zu bytes was written", written - g->data, g->size);
}

/* ---- random numbers ------------------------------------------------------------------------ */

rng rng_new(uint64_t seed)
{
    rng r = {seed * 0x9E3779B97F4A7C15u + 0x1234567};
    return r;
}

uint64_t rng_next(rng *r) /* splitmix64 */
{
    uint64_t z = r->state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

int64_t rng_below(rng *r, int64_t n)
{
    return (int64_t)(rng_next(r) % (uint64_t)n);
}

double rng_uniform(rng *r)
{
    return ((double)(rng_next(r) >> 11) + 0.5) * 0x1p-53;
}

double rng_gauss(rng *r)
{
    double radius = sqrt(-2 * log(rng_uniform(r)));
    return radius * cos(6.283185307179586 * rng_uniform(r));
}

/* ---- 16-bit floats ------------------------------------------------------------------------- */

size_t dtype_size(hyperattn_dtype dtype)
{
    return dtype == HYPERATTN_F32 ? 4 : 2;
}

const char *dtype_name(hyperattn_dtype dtype)
{
    static const char *const names[] = {"f32", "bf16", "f16"};
    return names[dtype];
}

double dtype_eps(hyperattn_dtype dtype)
{
    static const double eps[] = {0x1p-23, 0x1p-7, 0x1p-10};
    return eps[dtype];
}

static uint32_t bits_of(float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}

static float float_of(uint32_t u)
{
    float x;
    memcpy(&x, &u, 4);
    return x;
}

static uint16_t bf16_from(float x)
{
    uint32_t u = bits_of(x);
    if (isnan(x))
        return (uint16_t)((u >> 16) | 0x40);
    return (uint16_t)((u + 0x7FFF + ((u >> 16) & 1)) >> 16);
}

static double f16_value(uint16_t h)
{
    int exponent = (h >> 10) & 31, mantissa = h & 1023;
    double value = exponent == 31 ? (mantissa ? NAN : INFINITY)
                   : exponent     ? ldexp(1024 + mantissa, exponent - 25)
                                  : ldexp(mantissa, -24);
    return h & 0x8000 ? -value : value;
}

static uint16_t f16_from(double x)
{
    uint16_t sign = signbit(x) ? 0x8000 : 0;
    double a = fabs(x);
    if (isnan(x))
        return sign | 0x7E00;
    if (a >= 65520)
        return sign | 0x7C00;
    if (a < 0x1p-14) /* subnormal; rounding up to 1024 units gives the first normal number */
        return (uint16_t)(sign | (uint16_t)nearbyint(a * 0x1p24));
    int exponent;
    double fraction = frexp(a, &exponent); /* a = fraction 2^exponent, fraction in [1/2, 1) */
    int mantissa = (int)nearbyint(fraction * 2048) - 1024;
    return (uint16_t)(sign | (((exponent + 14) << 10) + mantissa));
}

double element_get(const void *array, int64_t index, hyperattn_dtype dtype)
{
    if (dtype == HYPERATTN_F32)
        return ((const float *)array)[index];
    uint16_t h = ((const uint16_t *)array)[index];
    return dtype == HYPERATTN_F16 ? f16_value(h) : float_of((uint32_t)h << 16);
}

void element_put(void *array, int64_t index, hyperattn_dtype dtype, double value)
{
    if (dtype == HYPERATTN_F32)
        ((float *)array)[index] = (float)value;
    else
        ((uint16_t *)array)[index] =
            dtype == HYPERATTN_F16 ? f16_from(value) : bf16_from((float)value);
}

static const uint32_t signalling_f32 = 0x7FA00000;
static const uint16_t signalling_16[] = {0, 0x7FA0, 0x7D00};

void fill_signalling(void *array, int64_t count, hyperattn_dtype dtype)
{
    for (int64_t i = 0; i < count; i++) {
        if (dtype == HYPERATTN_F32)
            ((uint32_t *)array)[i] = signalling_f32;
        else
            ((uint16_t *)array)[i] = signalling_16[dtype];
    }
}

int is_signalling(const void *array, int64_t index, hyperattn_dtype dtype)
{
    if (dtype == HYPERATTN_F32)
        return ((const uint32_t *)array)[index] == signalling_f32;
    return ((const uint16_t *)array)[index] == signalling_16[dtype];
}

/* ---- emulators ----------------------------------------------------------------------------- */

int emulated(void)
{
    const char *emulator = getenv("EMULATOR");
    return emulator && *emulator;
}

/* ---- levels and contexts ------------------------------------------------------------------- */

int levels_here(const char *names[], int room)
{
    int found = 0;
    for (int level = 0; level < HA_LEVELS && found < room; level++)
        if (ha_kernels_at((ha_level)level))
            names[found++] = ha_level_name((ha_level)level);
    return found;
}

hyperattn_ctx *ctx_at(const char *level, int nthreads)
{
    const char *before = getenv("HYPERATTN_CPU");
    char *saved = before ? strdup(before) : NULL;
    if (level)
        setenv("HYPERATTN_CPU", level, 1);
    hyperattn_ctx_params params;
    hyperattn_ctx_params_init(&params);
    params.nthreads = nthreads;
    hyperattn_ctx *ctx;
    hyperattn_ctx_create(&ctx, &params);
    if (saved)
        setenv("HYPERATTN_CPU", saved, 1);
    else
        unsetenv("HYPERATTN_CPU");
    free(saved);
    return ctx;
}

/* ---- counting allocator -------------------------------------------------------------------- */

static void *counting_alloc(size_t align, size_t size, void *user)
{
    allocs *a = user;
    a->calls++;
    if (align == 0 || (align & (align - 1)) != 0)
        a->misaligned++;
    if (a->fail_at && (a->calls == a->fail_at || (a->fail_for_good && a->calls > a->fail_at)))
        return NULL;
    void *block = NULL;
    if (posix_memalign(&block, align < sizeof(void *) ? sizeof(void *) : align, size) != 0)
        return NULL;
    memset(block, PATTERN, size); /* so that reading what was never written shows */
    a->live++;
    return block;
}

static void counting_free(void *block, void *user)
{
    allocs *a = user;
    if (block)
        a->live--;
    free(block);
}

hyperattn_ctx_params allocs_params(allocs *a)
{
    hyperattn_ctx_params params;
    hyperattn_ctx_params_init(&params);
    params.alloc = counting_alloc;
    params.free = counting_free;
    params.user = a;
    return params;
}
