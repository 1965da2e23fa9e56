/* SPDX-License-Identifier: Apache-2.0 */
#include "memory.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "message.h"

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

void *buffer_alloc(size_t bytes, const char *what)
{
    void *buffer = NULL;
    if (!memory_fits(bytes, what))
        return NULL;
    if (bytes > SIZE_MAX - 64 || posix_memalign(&buffer, 64, bytes ? bytes : 64)) {
        failed("%s: no memory for %.2f GiB", what, (double)bytes / 0x1p30);
        return NULL;
    }
    memset(buffer, 0, bytes);
    return buffer;
}

void buffer_free(void *buffer)
{
    free(buffer);
}
