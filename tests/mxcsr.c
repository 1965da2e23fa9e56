/* SPDX-License-Identifier: Apache-2.0
 *
 * Loading the shared library and calling it leaves the floating-point control of the host program
 * alone. A library linked with -ffast-math fails here: its start-up code sets FTZ and DAZ.
 */
#include "config.h"

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "hyperattn.h"

#define LIBRARY HA_LIBDIR LT_OBJDIR "libhyperattn.so"
#define SKIPPED 77

/* Rounding, flush-to-zero and trap bits; the sticky exception flags are not control. */
#if defined(__x86_64__)
#include <xmmintrin.h>
#define UNUSUAL 0xff80u /* all exceptions masked, round to zero, FTZ */
static uint64_t get_control(void)
{
    return _mm_getcsr() & ~0x3fu;
}

static void set_control(uint64_t control)
{
    _mm_setcsr((unsigned)control);
}
#elif defined(__aarch64__)
#define UNUSUAL 0x1c00000u /* round to zero, FZ */
static uint64_t get_control(void)
{
    uint64_t control;
    __asm__ volatile("mrs %0, fpcr" : "=r"(control));
    return control;
}

static void set_control(uint64_t control)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(control));
}
#else
#define UNUSUAL 0
static uint64_t get_control(void)
{
    return 0;
}

static void set_control(uint64_t control)
{
    (void)control;
}
#endif

static void *library;

/* The function pointer, moved as bytes: ISO C has no cast from an object pointer to it. */
#define FIND(name)                                                                                 \
    __typeof__(hyperattn_##name) *name;                                                            \
    do {                                                                                           \
        void *address = dlsym(library, "hyperattn_" #name);                                        \
        memcpy(&name, &address, sizeof name);                                                      \
    } while (0)

/* One small forward pass through the loaded library. */
static int use_library(void)
{
    FIND(ctx_create);
    FIND(ctx_destroy);
    FIND(problem_init);
    FIND(plan_create);
    FIND(plan_destroy);
    FIND(forward);
    hyperattn_ctx *ctx;
    hyperattn_plan *plan;
    hyperattn_problem problem;
    float in[8] = {1, 2, 3, 4, 5, 6, 7, 8}, out[8];
    int failed = 1;

    problem_init(&problem);
    problem.seqlen_q = 2;
    problem.head_dim = 4;
    if (ctx_create(&ctx, NULL) != HYPERATTN_OK)
        return 1;
    if (plan_create(&plan, ctx, &problem, NULL) == HYPERATTN_OK) {
        failed = forward(plan, in, in, in, out, NULL, NULL) != HYPERATTN_OK;
        plan_destroy(plan);
    }
    ctx_destroy(ctx);
    return failed;
}

static int same_control(const char *what, uint64_t before)
{
    uint64_t after = get_control();

    if (after != before)
        printf("%s changed the control register from %#llx to %#llx\n", what,
               (unsigned long long)before, (unsigned long long)after);
    return after == before;
}

int main(void)
{
    uint64_t before = get_control();
    int good;

    if (UNUSUAL == 0) {
        puts("no floating-point control register is known for this machine");
        return SKIPPED;
    }
    library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        puts(dlerror());
        return 1;
    }
    good = same_control("dlopen", before);
    set_control(UNUSUAL);
    if (use_library()) {
        puts("the library refused a forward pass");
        good = 0;
    }
    good &= same_control("a forward pass", UNUSUAL);
    set_control(before);
    return !good;
}
