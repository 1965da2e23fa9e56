/* SPDX-License-Identifier: Apache-2.0
 *
 * hyperattn: finds the command and leaves the rest of the arguments to it.
 */
#include <argp.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"
#include "hyperattn.h"
#include "message.h"
#include "options.h"

static const struct {
    const char *name, *full_name;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"info", "hyperattn info", cmd_info},
    {"run", "hyperattn run", cmd_run},
    {"compare", "hyperattn compare", cmd_compare},
    {"measure", "hyperattn measure", cmd_measure},
    {"sweep", "hyperattn sweep", cmd_sweep},
    {"tune", "hyperattn tune", cmd_tune},
};

enum { COMMANDS = sizeof commands / sizeof commands[0] };

static const char doc[] =
    "Exact attention and HyperAttention on .npy files and generated input.\v"
    "Commands:\n"
    "  info      version, instruction-set levels, threads, OpenBLAS\n"
    "  run       attention of q, k and v from .npy files, and its gradients\n"
    "  compare   exact attention against HyperAttention: times, errors, stages\n"
    "  measure   error of an output, from some rows of each head\n"
    "  sweep     times over the sequence length: table, CSV, JSON, SVG\n"
    "  tune      what the steps that target_error chooses from cost on this machine\n"
    "\n"
    "'hyperattn COMMAND --help' lists a command's options.\n"
    "\n"
    "Exit status: 0 success; 1 the library, the memory or an output failed; 2 a file or an "
    "argument is wrong.";

static void print_version(FILE *stream, struct argp_state *state)
{
    (void)state;
    fprintf(stream, "hyperattn %s\n", hyperattn_version());
}

/* The first argument that is no option names the command; what follows is the command's. */
static error_t parse_command(int key, char *text, struct argp_state *state)
{
    int *at = state->input;
    (void)text;
    switch (key) {
    case ARGP_KEY_ARG:
        *at = state->next - 1;
        state->next = state->argc;
        return 0;
    case ARGP_KEY_NO_ARGS:
        argp_error(state, "no command given");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* Where a standard stream is closed, the next file opened would take its place, and receive what is
 * meant for the stream. A descriptor of the wrong direction fails instead. */
static void keep_standard_streams(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) < 0)
            (void)!open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
    }
}

/* At exit, argp's exits included: help, version and tables that did not reach their reader. */
static void check_stdout(void)
{
    if (fflush(stdout) || ferror(stdout))
        _exit(failed("writing to standard output failed"));
}

int main(int argc, char **argv)
{
    static const struct argp parser = {
        .parser = parse_command, .args_doc = "COMMAND [OPTION...]", .doc = doc};
    int at = 0;
    keep_standard_streams();
    if (atexit(check_stdout))
        return failed("out of memory");
    argp_err_exit_status = STATUS_BAD_INPUT;
    argp_program_version_hook = print_version;
    error_t error = argp_parse(&parser, argc, argv, ARGP_IN_ORDER, NULL, &at);
    if (error)
        return failed("%s", strerror(error));
    for (int c = 0; c < COMMANDS; c++) {
        if (strcmp(argv[at], commands[c].name) != 0)
            continue;
        char name[32];
        snprintf(name, sizeof name, "%s", commands[c].full_name);
        argv[at] = name;
        message_command(commands[c].full_name);
        return commands[c].run(argc - at, argv + at);
    }
    return bad_input("'%s' is no command; 'hyperattn --help' lists them", argv[at]);
}
