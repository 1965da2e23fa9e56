/* SPDX-License-Identifier: Apache-2.0
 *
 * The commands. argv[0] is the name for messages, such as "hyperattn run"; the return value is the
 * program's exit status.
 */
#ifndef BENCH_COMMANDS_H
#define BENCH_COMMANDS_H

int cmd_info(int argc, char **argv);
int cmd_run(int argc, char **argv);
int cmd_compare(int argc, char **argv);
int cmd_measure(int argc, char **argv);
int cmd_sweep(int argc, char **argv);
int cmd_tune(int argc, char **argv);

#endif
