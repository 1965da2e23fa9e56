/* SPDX-License-Identifier: Apache-2.0
 *
 * One line on the terminal that says what is being done. Nothing is written where standard error is
 * no terminal.
 */
#ifndef BENCH_PROGRESS_H
#define BENCH_PROGRESS_H

/* Replaces the line. */
void progress(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Removes the line: call before anything else is printed. */
void progress_clear(void);

#endif
