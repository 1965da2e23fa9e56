/* SPDX-License-Identifier: Apache-2.0
 *
 * What a Check program needs beside its tests. A program has one topic:
 *
 *     int main(void)
 *     {
 *         TCase *topic = topic_begin("exact");
 *         tcase_add_test(topic, one_promise);
 *         return topic_end();
 *     }
 *
 * Tests run in forked children, so main itself must not call the library: OpenMP's threads do not
 * survive the fork.
 */
#ifndef CHECKMAIN_H
#define CHECKMAIN_H

#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "testutil.h"

/* Ends the test with the text of a verification function that found something. */
#define ck_good(expression)                                                                        \
    do {                                                                                           \
        const char *ck_why = (expression);                                                         \
        if (ck_why)                                                                                \
            ck_abort_msg("%s", ck_why);                                                            \
    } while (0)

/* The same; the further arguments, a printf format first, say which of many cases it was. */
#define ck_good_at(expression, ...)                                                                \
    do {                                                                                           \
        const char *ck_why = (expression);                                                         \
        if (ck_why) {                                                                              \
            char ck_case[256];                                                                     \
            snprintf(ck_case, sizeof ck_case, __VA_ARGS__);                                        \
            ck_abort_msg("%s: %s", ck_case, ck_why);                                               \
        }                                                                                          \
    } while (0)

/* Ends the test unless a library call returned OK. */
#define ck_ok(call)                                                                                \
    do {                                                                                           \
        hyperattn_status ck_status = (call);                                                       \
        if (ck_status != HYPERATTN_OK)                                                             \
            ck_abort_msg("%s: %s (%s)", #call, hyperattn_strerror(ck_status),                      \
                         hyperattn_last_error());                                                  \
    } while (0)

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

/* The levels that a loop test over topic_levels() runs at; its _i is an index. */
static const char *levels[8];

static inline int topic_levels(void)
{
    int n = levels_here(levels, COUNT(levels));
    printf("levels:");
    for (int i = 0; i < n; i++)
        printf(" %s", levels[i]);
    printf("\n");
    fflush(stdout);
    return n;
}

static SRunner *topic_runner;

static inline TCase *topic_begin(const char *name)
{
    Suite *suite = suite_create(name);
    TCase *topic = tcase_create(name);
    tcase_set_timeout(topic, 300); /* sanitizers and emulators are slow */
    suite_add_tcase(suite, topic);
    topic_runner = srunner_create(suite);
    return topic;
}

static inline int topic_end(void)
{
    srunner_run_all(topic_runner, CK_ENV);
    int failed = srunner_ntests_failed(topic_runner);
    srunner_free(topic_runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

#endif
