/* SPDX-License-Identifier: Apache-2.0
 *
 * The body of the header_* programs, each of which compiles hyperattn.h alone in one language and
 * links the shared library: the header that was compiled is that of the library that runs.
 */
#ifndef HEADER_TEST_H
#define HEADER_TEST_H

#include <stdio.h>
#include <string.h>

static int header_test(void)
{
    char expected[40];
    hyperattn_problem problem;

    snprintf(expected, sizeof expected, "%d.%d.%d", HYPERATTN_VERSION_MAJOR,
             HYPERATTN_VERSION_MINOR, HYPERATTN_VERSION_PATCH);
    if (strcmp(hyperattn_version(), expected) != 0) {
        printf("library %s, header %s\n", hyperattn_version(), expected);
        return 1;
    }
    hyperattn_problem_init(&problem);
    if (problem.struct_size != sizeof problem) {
        printf("struct_size %zu, header %zu\n", problem.struct_size, sizeof problem);
        return 1;
    }
    return 0;
}

#endif
