/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HA_ENV_H
#define HA_ENV_H

/* The environment variables that the library reads. */
#define HA_ENV_CPU "HYPERATTN_CPU"         /* ceiling of the instruction-set level */
#define HA_ENV_BACKEND "HYPERATTN_BACKEND" /* auto, cpu or cuda, where the context says AUTO */
#define HA_ENV_LOG "HYPERATTN_LOG"         /* error, warn, info or debug, to stderr */
#define HA_ENV_MODULE_PATH "HYPERATTN_MODULE_PATH" /* directory that is searched first */

/* The variable's value, or NULL if it is unset or empty. */
const char *ha_env(const char *name);

/* The same, but NULL in a program that runs with more rights than its caller. */
const char *ha_env_secure(const char *name);

#endif
