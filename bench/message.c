/* SPDX-License-Identifier: Apache-2.0 */
#include "message.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

#include "progress.h"

static const char *command_name = "hyperattn";

void message_command(const char *name)
{
    command_name = name;
}

static void print_message(const char *kind, const char *format, va_list args)
{
    progress_clear();
    fflush(stdout);
    fprintf(stderr, "%s: %s", command_name, kind);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
}

int failed(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    print_message("", format, args);
    va_end(args);
    return STATUS_FAILED;
}

int bad_input(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    print_message("", format, args);
    va_end(args);
    return STATUS_BAD_INPUT;
}

void note(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    print_message("note: ", format, args);
    va_end(args);
}

int library_failed(const char *what, hyperattn_status status)
{
    const char *detail = hyperattn_last_error();
    failed("%s: %s%s%s", what, hyperattn_strerror(status), *detail ? ": " : "", detail);
    bool refused = status == HYPERATTN_EINVAL || status == HYPERATTN_ENOTSUP;
    return refused ? STATUS_BAD_INPUT : STATUS_FAILED;
}
