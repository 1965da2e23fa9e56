/* SPDX-License-Identifier: Apache-2.0
 *
 * The options that name one method of the library's, and what only some of them have.
 */
#include <float.h>
#include <limits.h>

#include "options.h"
#include "values.h"

enum {
    KEY_METHOD = OPTION_METHOD,
    KEY_BUDGET,
    KEY_TARGET
};

static const char *const names[] = {"auto", "exact", "hyper", "multipole"};

static const struct argp_option method_option_list[] = {
    {"method", KEY_METHOD, "METHOD", 0, "exact, hyper, multipole or auto", 2},
    {"budget", KEY_BUDGET, "N", 0, "The budget of multipole (the library's default)", 2},
    {"target-error", KEY_TARGET, "X", 0,
     "Relative error that each head may have: auto, hyper and multipole choose a step for each", 2},
    {0}};

static error_t parse_method(int key, char *text, struct argp_state *state)
{
    method_options *o = state->input;
    switch (key) {
    case KEY_METHOD:
        o->given = true;
        o->method = (hyperattn_method)parse_choice(state, "--method", text, 4, names);
        return 0;
    case KEY_BUDGET:
        o->budget = (int)parse_whole(state, "--budget", text, 1, INT_MAX);
        return 0;
    case KEY_TARGET:
        o->target_error = (float)parse_real(state, "--target-error", text, FLT_MIN, 1);
        return 0;
    case ARGP_KEY_END:
        if (o->budget && o->method != HYPERATTN_MULTIPOLE)
            argp_error(state, "--budget needs --method multipole");
        if (o->target_error > 0 && o->method == HYPERATTN_EXACT)
            argp_error(state, "--target-error is not for --method exact");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp method_argp = {.options = method_option_list, .parser = parse_method};

const char *method_name(hyperattn_method method)
{
    return names[method];
}

void refuse_unread(struct argp_state *state, const params_options *params,
                   const method_options *method)
{
    if (method->method == HYPERATTN_MULTIPOLE && params_are_hypers(params))
        argp_error(state, "--method multipole has no option of HyperAttention but --sinks, "
                          "--window, --strict-causal and --seed; the others need --method hyper");
}

void method_resolve(hyperattn_params *params, const method_options *o)
{
    params->method = o->method;
    params->target_error = o->target_error;
    if (o->budget)
        params->budget = o->budget;
}
