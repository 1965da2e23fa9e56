/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages on standard error and the exit statuses that go with them.
 */
#ifndef BENCH_MESSAGE_H
#define BENCH_MESSAGE_H

#include "hyperattn.h"

/* Functions of the program that can fail return one of these, after printing why. */
enum {
    STATUS_OK = 0,
    STATUS_FAILED = 1,   /* the library, the memory or an output failed */
    STATUS_BAD_INPUT = 2 /* a file or an argument is wrong */
};

/* Name that starts each message, such as "hyperattn run"; stays the caller's. */
void message_command(const char *name);

/* Print "NAME: text" and return the status. */
int failed(const char *format, ...) __attribute__((format(printf, 1, 2)));
int bad_input(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Prints what was tried, the status and hyperattn_last_error(). Returns STATUS_BAD_INPUT where the
 * library refuses its arguments, which come from the program's own, and STATUS_FAILED otherwise. */
int library_failed(const char *what, hyperattn_status status);

/* "NAME: note: text", on standard error too: a result needs an explanation. */
void note(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
