/* SPDX-License-Identifier: Apache-2.0
 *
 * Tests of the instruction-set levels: which names HYPERATTN_CPU knows, and the order of the list.
 */
#include <string.h>

#include "checkmain.h"
#include "kernels.h"

#if defined(__x86_64__) || defined(__i386__)
static const char *const own[] = {"ref", "generic", "avx2", "avx512", "avx512bf16"};
static const char *const others[] = {"neon", "neonbf16"};
#elif defined(__aarch64__)
static const char *const own[] = {"ref", "generic", "neon", "neonbf16"};
static const char *const others[] = {"avx2", "avx512", "avx512bf16"};
#else
static const char *const own[] = {"ref", "generic"};
static const char *const others[] = {"avx2", "avx512", "avx512bf16", "neon", "neonbf16"};
#endif

static void with_level(const char *level, char isa[32], char reason[128])
{
    hyperattn_ctx *ctx = ctx_at(level, 1);
    ck_assert_ptr_nonnull(ctx);
    strncpy(isa, hyperattn_ctx_isa(ctx), 31);
    strncpy(reason, hyperattn_ctx_reason(ctx), 127);
    isa[31] = reason[127] = '\0';
    hyperattn_ctx_destroy(ctx);
}

START_TEST(the_list_is_the_architectures)
{
    ck_assert_int_eq(HA_LEVELS, COUNT(own));
    for (int l = 0; l < HA_LEVELS; l++)
        ck_assert_str_eq(ha_level_name((ha_level)l), own[l]);
}
END_TEST

START_TEST(a_table_has_its_levels_name)
{
    for (int l = 0; l < HA_LEVELS; l++) {
        const ha_kernels *table = ha_kernels_at((ha_level)l);
        ck_assert(!table ||
                  (ha_level_is_built_in((ha_level)l) && ha_level_runs_here((ha_level)l)));
        if (table)
            ck_assert_str_eq(table->name, own[l]);
    }
    ck_assert_ptr_nonnull(ha_kernels_at(HA_LEVEL_REF));
}
END_TEST

/* Every name of this architecture is known, and where its level is not here, a lower one serves. */
START_TEST(own_levels_are_ceilings)
{
    char isa[32], reason[128];
    for (int l = 0; l < COUNT(own); l++) {
        int at = l;
        while (!ha_kernels_at((ha_level)at))
            at--;
        with_level(own[l], isa, reason);
        ck_assert_str_eq(isa, own[at]);
        ck_assert_msg(!strstr(reason, "not a level"), "%s: %s", own[l], reason);
    }
}
END_TEST

/* A level of another architecture is no level: it counts for nothing, and the reason says so. */
START_TEST(levels_of_other_architectures_are_unknown)
{
    char isa[32], reason[128], best[32], none[128];
    unsetenv("HYPERATTN_CPU");
    with_level(NULL, best, none);
    for (int l = 0; l < COUNT(others); l++) {
        with_level(others[l], isa, reason);
        ck_assert_str_eq(isa, best);
        ck_assert_msg(strstr(reason, "HYPERATTN_CPU is not a level") != NULL, "%s: %s", others[l],
                      reason);
    }
}
END_TEST

int main(void)
{
    TCase *topic = topic_begin("levels");
    tcase_add_test(topic, the_list_is_the_architectures);
    tcase_add_test(topic, a_table_has_its_levels_name);
    tcase_add_test(topic, own_levels_are_ceilings);
    tcase_add_test(topic, levels_of_other_architectures_are_unknown);
    return topic_end();
}
