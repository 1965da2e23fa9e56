/* SPDX-License-Identifier: Apache-2.0
 *
 * The module's file is looked for in HYPERATTN_MODULE_PATH, in the directory of libhyperattn and in
 * that of the installation; the first one found is the one, whether it serves or not. It is always
 * named by its absolute path, so that no search path of the dynamic linker has a say.
 */
#include "config.h"

#include "module.h"

#define FILE_NAME "libhyperattn-cuda.so"

static ha_module cuda = {
    .status = HYPERATTN_EBACKEND,
    .absent = 1,
    .note = "",
    .reason = FILE_NAME ": this build of the library loads no modules",
};

#ifdef HA_HAVE_MODULES
#include <dlfcn.h>
#include <limits.h>
#include <link.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "algo/algo.h"
#include "context.h"
#include "env.h"
#include "log.h"

#define NAME "cuda"

/* A table's size in version 1 of the contract. */
#define FIRST_SIZE (offsetof(ha_backend, merge) + sizeof(((ha_backend *)NULL)->merge))

static const ha_host host = {
    .abi_version = HA_BACKEND_ABI,
    .struct_size = sizeof host,
    .fail = ha_fail,
    .log = ha_log,
    .alloc = ha_alloc,
    .free = ha_free,
    .algo = &ha_algo_table,
};

/* The module's table as far as it goes: functions of a later version are NULL. */
static ha_backend table;

/* ---- the file -------------------------------------------------------------------------------- */

/* Whether FILE_NAME is in a directory, whose name is `length` bytes. */
static int is_in(const char *directory, size_t length, char path[PATH_MAX])
{
    struct stat ignored;
    if (length + sizeof "/" FILE_NAME > PATH_MAX)
        return 0;
    memcpy(path, directory, length);
    strcpy(path + length, "/" FILE_NAME);
    return stat(path, &ignored) == 0;
}

/* The objects of the process, in the order of the dynamic linker's list. */
typedef struct object_search {
    int passed, found;
    char *path;
} object_search;

/* Looks beside the object that holds this code, and ends the search there. The first object is the
 * program, whose name is what its caller says: linked into it statically, there is no beside. */
static int look_beside(struct dl_phdr_info *object, size_t size, void *arg)
{
    (void)size;
    object_search *search = arg;
    int is_program = search->passed++ == 0;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &object->dlpi_phdr[i];
        ElfW(Addr) from = object->dlpi_addr + part->p_vaddr;
        if (part->p_type != PT_LOAD || (ElfW(Addr))&cuda - from >= part->p_memsz)
            continue;
        if (!is_program && object->dlpi_name[0] == '/') {
            size_t length = (size_t)(strrchr(object->dlpi_name, '/') - object->dlpi_name);
            search->found = is_in(object->dlpi_name, length, search->path);
        }
        return 1;
    }
    return 0;
}

static int find(char path[PATH_MAX])
{
    const char *directory = ha_env_secure(HA_ENV_MODULE_PATH);
    if (directory && *directory != '/')
        cuda.note = HA_ENV_MODULE_PATH " is not an absolute path: ignored";
    else if (directory && is_in(directory, strlen(directory), path))
        return 1;
    object_search search = {.path = path};
    dl_iterate_phdr(look_beside, &search);
    return search.found || is_in(HA_MODULE_DIR, strlen(HA_MODULE_DIR), path);
}

/* ---- its table ------------------------------------------------------------------------------- */

/* Whether an address that dlsym found is in this very file, and not in one that it depends on. */
static int is_of(const void *address, void *handle)
{
    struct link_map *map;
    Dl_info info;
    return dlinfo(handle, RTLD_DI_LINKMAP, &map) == 0 && dladdr(address, &info) &&
           strcmp(info.dli_fname, map->l_name) == 0;
}

static hyperattn_status check_table(const ha_backend *t, const char *path)
{
    if (!t)
        return ha_fail(HYPERATTN_EBACKEND, "%s gives no table", path);
    if (t->abi_version != HA_BACKEND_ABI)
        return ha_fail(HYPERATTN_EVERSION, "%s is of ABI %u, this library of %u", path,
                       (unsigned)t->abi_version, HA_BACKEND_ABI);
    if (t->struct_size < FIRST_SIZE || t->struct_size > sizeof *t)
        return ha_fail(HYPERATTN_EVERSION, "%s has a table of %zu bytes, this library of %zu", path,
                       t->struct_size, sizeof *t);
    if (!t->name || strcmp(t->name, NAME) != 0)
        return ha_fail(HYPERATTN_EBACKEND, "%s is the backend %s, not " NAME, path,
                       t->name ? t->name : "(null)");
    if (!t->open || !t->close || !t->plan || !t->unplan || !t->forward || !t->backward || !t->merge)
        return ha_fail(HYPERATTN_EBACKEND, "%s has a table with a NULL in it", path);
    return HYPERATTN_OK;
}

static hyperattn_status ask(void *handle, const char *path)
{
    ha_backend_query *query;
    void *address = dlsym(handle, HA_BACKEND_QUERY);
    if (!address || !is_of(address, handle))
        return ha_fail(HYPERATTN_EBACKEND, "%s has no " HA_BACKEND_QUERY "%s", path,
                       address ? " of its own" : "");
    memcpy(&query, &address, sizeof query); /* ISO C has no cast for this */
    const ha_backend *given = NULL;
    hyperattn_status status = query(&host, &given);
    if (status && !*hyperattn_last_error())
        ha_fail(status, "%s: %s", path, hyperattn_strerror(status));
    if (status || (status = check_table(given, path)))
        return status;
    memcpy(&table, given, given->struct_size);
    cuda.backend = &table;
    ha_log(HA_LOG_INFO, "backend " NAME " from %s", path);
    return HYPERATTN_OK;
}

static hyperattn_status load_file(const char *path)
{
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!handle)
        return ha_fail(HYPERATTN_EBACKEND, "%s", dlerror());
    hyperattn_status status = ask(handle, path);
    if (status)
        dlclose(handle);
    return status;
}

/* Failures here are reported by those who ask for the module, each in its thread. */
static void load(void)
{
    char path[PATH_MAX], before[HA_DETAIL];
    cuda.absent = !find(path);
    if (cuda.absent) {
        snprintf(cuda.reason, sizeof cuda.reason, "there is no " FILE_NAME " in " HA_MODULE_DIR);
        return;
    }
    snprintf(before, sizeof before, "%s", hyperattn_last_error());
    ha_set_detail("");
    cuda.status = load_file(path);
    if (cuda.status) {
        cuda.status = cuda.status == HYPERATTN_EVERSION ? HYPERATTN_EVERSION : HYPERATTN_EBACKEND;
        snprintf(cuda.reason, sizeof cuda.reason, "%s", hyperattn_last_error());
    }
    ha_set_detail(before);
}

const ha_module *ha_module_cuda(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, load);
    return &cuda;
}

#else

const ha_module *ha_module_cuda(void)
{
    return &cuda;
}

#endif
