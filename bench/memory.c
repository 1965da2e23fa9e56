/* SPDX-License-Identifier: Apache-2.0 */
#include "memory.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "message.h"

#define HUGE_PAGE ((size_t)2 << 20)

bool size_product(size_t *size, int n, const int64_t *factors)
{
    int64_t product = 1;
    for (int i = 0; i < n; i++) {
        if (factors[i] < 0 || __builtin_mul_overflow(product, factors[i], &product))
            return false;
    }
    if (product > PTRDIFF_MAX)
        return false;
    *size = (size_t)product;
    return true;
}

size_t memory_available(void)
{
    uint64_t kib = 0;
    FILE *file = fopen("/proc/meminfo", "re");
    if (file) {
        char line[128];
        while (fgets(line, sizeof line, file)) {
            if (sscanf(line, "MemAvailable: %" SCNu64, &kib) == 1)
                break;
        }
        fclose(file);
    }
    if (kib == 0 || kib > SIZE_MAX / 1024)
        return SIZE_MAX;
    return (size_t)kib * 1024;
}

bool memory_fits(size_t bytes, const char *what)
{
    size_t available = memory_available();
    if (bytes <= available)
        return true;
    failed("%s: %.2f GiB needed, %.2f GiB of memory available", what, (double)bytes / 0x1p30,
           (double)available / 0x1p30);
    return false;
}

/* Huge pages, where the system gives them for the asking: rows are gathered from anywhere, and with
 * small pages each costs a page walk. numpy's and most engines' allocators ask for them too. */
static void ask_for_huge_pages(void *buffer, size_t bytes)
{
#ifdef MADV_HUGEPAGE
    if (bytes >= HUGE_PAGE)
        (void)madvise(buffer, bytes / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
#else
    (void)buffer;
    (void)bytes;
#endif
}

void *buffer_alloc(size_t bytes, const char *what)
{
    void *buffer = NULL;
    if (!memory_fits(bytes, what))
        return NULL;
    size_t align = bytes >= HUGE_PAGE ? HUGE_PAGE : 64;
    if (bytes > SIZE_MAX - align || posix_memalign(&buffer, align, bytes ? bytes : align)) {
        failed("%s: no memory for %.2f GiB", what, (double)bytes / 0x1p30);
        return NULL;
    }
    ask_for_huge_pages(buffer, bytes);
    memset(buffer, 0, bytes);
    return buffer;
}

void buffer_free(void *buffer)
{
    free(buffer);
}
