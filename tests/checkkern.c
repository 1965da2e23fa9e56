/* SPDX-License-Identifier: Apache-2.0
 *
 * Every kernel of every instruction-set level that this build and this processor have, against
 * definitions in plain C and float64, with guard pages around all memory; and their speed.
 */
#include <fnmatch.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kern.h"

#define EXIT_SKIPPED 77
#define SHOWN 10 /* failures of one kernel at one level that are printed */

static const struct {
    const char *name;
    void (*run)(const kern_run *run);
    int per_arith; /* once for each arithmetic of the level */
} functions[] = {
    {"load_q", kern_load_q, 1},
    {"pack_k", kern_pack_k, 1},
    {"pack_v", kern_pack_v, 1},
    {"attend_shapes", kern_attend_shapes, 1},
    {"attend_masks", kern_attend_masks, 1},
    {"attend_chains", kern_attend_chains, 1},
    {"attend_odd", kern_attend_odd, 1},
    {"attend_mixed", kern_attend_mixed, 1},
    {"backward_shapes", kern_grad_shapes, 1},
    {"backward_masks", kern_grad_masks, 1},
    {"backward_odd", kern_grad_odd, 1},
    {"backward_mixed", kern_grad_mixed, 1},
    {"attend_in_place", kern_in_place, 0},
    {"project", kern_project, 0},
    {"hash", kern_hash, 0},
    {"store_rows", kern_store_rows, 0},
    {"dot_rows", kern_dot_rows, 0},
    {"score_rows", kern_score_rows, 0},
    {"sum_rows", kern_sum_rows, 0},
    {"log_sum_exp", kern_log_sum_exp, 0},
    {"scan_codes", kern_scan_codes, 0},
    {"exp2", kern_exp2, 0},
    {"peak", kern_peak, 0},
};

static int passed, failed, shown;

/* ---- one case -------------------------------------------------------------------------------- */

static sigjmp_buf before_crash;
static volatile sig_atomic_t inside_case;

static void on_crash(int sig)
{
    if (inside_case)
        siglongjmp(before_crash, sig);
    signal(sig, SIG_DFL);
    raise(sig);
}

static void catch_crashes(void)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
    struct sigaction action = {.sa_handler = on_crash};
    sigemptyset(&action.sa_mask);
    for (int i = 0; i < COUNT(signals); i++)
        sigaction(signals[i], &action, NULL);
}

static const char *survive(const kern_run *run, kern_case *verify, rng *r, const void *shape)
{
    int sig = sigsetjmp(before_crash, 1);
    if (sig)
        return failure("crash: %s", strsignal(sig));
    inside_case = 1;
    return verify(run, r, shape);
}

static uint64_t hash(const char *text)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (; *text; text++)
        h = (h ^ (unsigned char)*text) * 0x100000001b3u;
    return h;
}

void kern_try(const kern_run *run, kern_case *verify, const void *shape, const char *format, ...)
{
    char name[256];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    rng r = rng_new(run->seed ^ hash(run->function) ^ hash(name));
    const char *why = survive(run, verify, &r, shape);
    inside_case = 0;
    if (why && shown++ < SHOWN)
        printf("FAILED %s at %s, %s: %s\n", run->function, run->level, name, why);
    passed += !why;
    failed += why != NULL;
}

/* ---- comparing ------------------------------------------------------------------------------- */

void kern_near(kern_worst *w, const char *what, int64_t i, int64_t j, double expected, double got,
               double bound)
{
    double error = fabs(got - expected);
    double ratio = bound > 0 ? error / bound : error > 0 ? HUGE_VAL : 0;
    if (!isfinite(expected) || !isfinite(got))
        ratio = expected == got || (isnan(expected) && isnan(got)) ? 0 : HUGE_VAL;
    w->wrong += !(ratio <= 1);
    if (ratio > w->ratio) {
        w->ratio = ratio;
        snprintf(w->text, sizeof w->text,
                 "%s[%" PRId64 "][%" PRId64 "] is %.9g, expected %.9g within %.2g", what, i, j, got,
                 expected, bound);
    }
}

void kern_same_bits(kern_worst *w, const char *what, int64_t i, int64_t j, uint32_t expected,
                    uint32_t got, int digits)
{
    if (expected == got)
        return;
    if (w->wrong++ == 0)
        snprintf(w->text, sizeof w->text,
                 "%s[%" PRId64 "][%" PRId64 "] is 0x%0*" PRIx32 ", expected 0x%0*" PRIx32, what, i,
                 j, digits, got, digits, expected);
}

const char *kern_verdict(const kern_worst *w)
{
    return w->wrong ? failure("%s (%" PRId64 " wrong)", w->text, w->wrong) : NULL;
}

/* ---- inputs ---------------------------------------------------------------------------------- */

const int kern_dims[KERN_DIMS] = {1, 3, 15, 16, 17, 31, 33, 59, 64, 80, 96, 111, 128, 256};

const char *kern_placement(placement at)
{
    static const char *const names[PLACEMENTS] = {"at end", "at start", "off by 4"};
    return names[at];
}

uint32_t kern_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

float kern_float(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

guarded kern_floats(int64_t n, placement at)
{
    guarded g = guarded_new((size_t)n * 4, at);
    fill_signalling(g.data, n, HYPERATTN_F32);
    return g;
}

/* ---- levels ---------------------------------------------------------------------------------- */

typedef struct level {
    const char *name;
    const ha_kernels *table; /* NULL: this build or this processor lacks it */
} level;

#ifdef HA_EMULATE_AVX512
static int all_levels(level levels[HA_LEVELS])
{
    int can = ha_level_runs_here(HA_LEVEL_AVX2); /* which the emulation is compiled for */
    levels[0] = (level){"avx512", can ? &ha_kernels_avx512 : NULL};
    levels[1] = (level){"avx512bf16", can ? &ha_kernels_avx512bf16 : NULL};
    return 2;
}
#else
static int all_levels(level levels[HA_LEVELS])
{
    for (int i = 0; i < HA_LEVELS; i++)
        levels[i] = (level){ha_level_name((ha_level)i), ha_kernels_at((ha_level)i)};
    return HA_LEVELS;
}
#endif

/* ---- running --------------------------------------------------------------------------------- */

static void run_function(kern_run *run, const char *pattern, int i, const char *arith)
{
    char name[64];
    snprintf(name, sizeof name, "%s%s", functions[i].name, arith);
    if (fnmatch(pattern, name, 0) != 0)
        return;
    int passed_before = passed, failed_before = failed;
    run->function = name;
    shown = 0;
    functions[i].run(run);
    printf("  %-24s %5d passed", name, passed - passed_before);
    if (failed > failed_before)
        printf(", %d failed", failed - failed_before);
    printf("\n");
    fflush(stdout);
}

static void run_level(const level *at, const char *pattern, uint64_t seed, int all)
{
    kern_run run = {.table = at->table, .level = at->name, .seed = seed, .all = all};
    printf("%s\n", at->name);
    for (int i = 0; i < COUNT(functions); i++) {
        run.arith = &at->table->f32;
        run_function(&run, pattern, i, functions[i].per_arith ? "_f32" : "");
        run.arith = at->table->bf16;
        if (run.arith && functions[i].per_arith)
            run_function(&run, pattern, i, "_bf16");
    }
}

/* A pattern that excludes attend_in_place spares its time, and one that is its name the others'. */
static void bench(const level *at, const char *pattern)
{
    if (strcmp(pattern, "attend_in_place") != 0)
        kern_bench(at->table, at->name);
    if (fnmatch(pattern, "attend_in_place", 0) == 0)
        kern_bench_memory(at->table);
}

static void list(void)
{
    level levels[HA_LEVELS];
    int n = all_levels(levels);
    printf("levels:\n");
    for (int i = 0; i < n; i++)
        printf("  %s%s\n", levels[i].name, levels[i].table ? "" : " (not here)");
    printf("functions:\n");
    for (int i = 0; i < COUNT(functions); i++)
        printf(functions[i].per_arith ? "  %s_f32, %s_bf16\n" : "  %s\n", functions[i].name,
               functions[i].name);
}

static void usage(FILE *to)
{
    fputs("usage: checkkern [--function=PATTERN] [--level=NAME] [--seed=N] [--all] [--bench] "
          "[--list]\n"
          "  --function  only the kernels whose name matches the shell pattern\n"
          "  --level     only this instruction-set level\n"
          "  --seed      of the inputs, 1 by default\n"
          "  --all       exp2 over every float <= 0: a minute for each level\n"
          "  --bench     times the kernels in place of testing them\n"
          "  --list      names of levels and functions\n",
          to);
}

typedef struct options {
    const char *function, *level;
    uint64_t seed;
    int all, bench;
} options;

static options parse(int argc, char **argv)
{
    static const struct option known[] = {
        {"function", required_argument, NULL, 'f'}, {"level", required_argument, NULL, 'l'},
        {"seed", required_argument, NULL, 's'},     {"all", no_argument, NULL, 'a'},
        {"bench", no_argument, NULL, 'b'},          {"list", no_argument, NULL, 'i'},
        {"help", no_argument, NULL, 'h'},           {0},
    };
    options o = {.function = "*", .seed = 1};
    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (c) {
        case 'f': o.function = optarg; break;
        case 'l': o.level = optarg; break;
        case 's': o.seed = strtoull(optarg, NULL, 0); break;
        case 'a': o.all = 1; break;
        case 'b': o.bench = 1; break;
        case 'i': list(); exit(EXIT_SUCCESS);
        case 'h': usage(stdout); exit(EXIT_SUCCESS);
        default: usage(stderr); exit(EXIT_FAILURE);
        }
    }
    if (optind < argc) {
        usage(stderr);
        exit(EXIT_FAILURE);
    }
    return o;
}

int main(int argc, char **argv)
{
    options o = parse(argc, argv);
    level levels[HA_LEVELS];
    int n = all_levels(levels), ran = 0;
    catch_crashes();
    for (int i = 0; i < n; i++) {
        if (o.level && strcmp(o.level, levels[i].name) != 0)
            continue;
        if (!levels[i].table) {
            printf("%s: skipped, this build or this processor lacks it\n", levels[i].name);
            continue;
        }
        ran++;
        if (o.bench)
            bench(&levels[i], o.function);
        else
            run_level(&levels[i], o.function, o.seed, o.all);
    }
    if (ran == 0)
        return EXIT_SKIPPED;
    if (o.bench)
        return EXIT_SUCCESS;
    printf("seed %" PRIu64 ": %d passed, %d failed\n", o.seed, passed, failed);
    if (passed + failed == 0)
        fprintf(stderr, "checkkern: no kernel of these levels is called %s\n", o.function);
    return failed || passed == 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
