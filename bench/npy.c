/* SPDX-License-Identifier: Apache-2.0 */
#include "npy.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define NATIVE_ORDER '<'
#else
#define NATIVE_ORDER '>'
#endif

static const char magic[6] = "\x93NUMPY";

static const struct {
    const char *code, *name;
    size_t size;
} types[] = {
    [NPY_F32] = {"f4", "float32", 4},
    [NPY_F16] = {"f2", "float16", 2},
    [NPY_U16] = {"u2", "uint16", 2},
};

size_t npy_type_size(npy_type type)
{
    return types[type].size;
}

const char *npy_type_name(npy_type type)
{
    return types[type].name;
}

__attribute__((format(printf, 2, 3))) static bool refuse(char *why, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(why, NPY_WHY, format, args);
    va_end(args);
    return false;
}

/* ---- the header: a Python dictionary literal ------------------------------------------------ */

typedef struct cursor {
    const char *at, *end;
} cursor;

static void skip_space(cursor *c)
{
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\t' || *c->at == '\n'))
        c->at++;
}

/* Takes the character if it comes next, after spaces. */
static bool take(cursor *c, char wanted)
{
    skip_space(c);
    if (c->at == c->end || *c->at != wanted)
        return false;
    c->at++;
    return true;
}

static bool take_word(cursor *c, const char *word)
{
    size_t length = strlen(word);
    skip_space(c);
    if ((size_t)(c->end - c->at) < length || memcmp(c->at, word, length) != 0)
        return false;
    c->at += length;
    return true;
}

/* A quoted string without escapes, as long as fits into text[size]. */
static bool take_string(cursor *c, char *text, size_t size)
{
    char quote = take(c, '\'') ? '\'' : take(c, '"') ? '"' : '\0';
    if (!quote)
        return false;
    size_t n = 0;
    while (c->at < c->end && *c->at != quote) {
        if (n + 1 >= size || *c->at == '\\' || *c->at == '\0')
            return false;
        text[n++] = *c->at++;
    }
    text[n] = '\0';
    return take(c, quote);
}

static bool take_size(cursor *c, int64_t *value, char *why)
{
    skip_space(c);
    if (c->at < c->end && *c->at == '-')
        return refuse(why, "negative size in the shape");
    const char *first = c->at;
    *value = 0;
    for (; c->at < c->end && *c->at >= '0' && *c->at <= '9'; c->at++) {
        if (__builtin_mul_overflow(*value, 10, value) ||
            __builtin_add_overflow(*value, *c->at - '0', value))
            return refuse(why, "size in the shape exceeds 64 bits");
    }
    if (c->at == first)
        return refuse(why, "malformed shape in the header");
    if (c->at < c->end && *c->at == 'L') /* Python 2 wrote its long integers so */
        c->at++;
    return true;
}

static bool parse_shape(cursor *c, npy_info *info, char *why)
{
    if (!take(c, '('))
        return refuse(why, "malformed shape in the header");
    info->rank = 0;
    bool comma = true;
    while (!take(c, ')')) {
        if (!comma)
            return refuse(why, "malformed shape in the header");
        if (info->rank == NPY_MAX_RANK)
            return refuse(why, "more than %d dimensions", NPY_MAX_RANK);
        if (!take_size(c, &info->shape[info->rank++], why))
            return false;
        comma = take(c, ',');
    }
    if (info->rank == 1 && !comma)
        return refuse(why, "malformed shape in the header");
    return true;
}

static bool parse_type(cursor *c, npy_info *info, char *why)
{
    char text[16];
    skip_space(c);
    if (c->at < c->end && *c->at == '[')
        return refuse(why, "structured dtype, need a plain float32, float16 or uint16 array");
    if (!take_string(c, text, sizeof text))
        return refuse(why, "malformed dtype in the header");
    if (strchr(text, 'O'))
        return refuse(why, "dtype '%s' holds pickled objects, which are never loaded", text);
    for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
        if (text[0] == '\0' || strcmp(text + 1, types[t].code) != 0)
            continue;
        if (text[0] != NATIVE_ORDER && text[0] != '=')
            return refuse(why, "dtype '%s' has the other byte order", text);
        info->type = (npy_type)t;
        return true;
    }
    return refuse(why, "dtype '%s', need float32, float16 or uint16", text);
}

static bool parse_order(cursor *c, char *why)
{
    if (take_word(c, "True"))
        return refuse(why, "Fortran order, need C order (numpy.ascontiguousarray)");
    if (!take_word(c, "False"))
        return refuse(why, "malformed fortran_order in the header");
    return true;
}

static bool parse_dictionary(cursor *c, npy_info *info, char *why)
{
    enum { DESCR = 1, ORDER = 2, SHAPE = 4 };
    int seen = 0;
    bool comma = true;
    if (!take(c, '{'))
        return refuse(why, "malformed header");
    while (!take(c, '}')) {
        char key[16];
        if (!comma || !take_string(c, key, sizeof key) || !take(c, ':'))
            return refuse(why, "malformed header");
        int what = strcmp(key, "descr") == 0           ? DESCR
                   : strcmp(key, "fortran_order") == 0 ? ORDER
                   : strcmp(key, "shape") == 0         ? SHAPE
                                                       : 0;
        if (what == 0 || (seen & what))
            return refuse(why, "unknown or repeated key '%s' in the header", key);
        seen |= what;
        bool ok = what == DESCR   ? parse_type(c, info, why)
                  : what == ORDER ? parse_order(c, why)
                                  : parse_shape(c, info, why);
        if (!ok)
            return false;
        comma = take(c, ',');
    }
    if (seen != (DESCR | ORDER | SHAPE))
        return refuse(why, "header lacks descr, fortran_order or shape");
    skip_space(c);
    if (c->at != c->end)
        return refuse(why, "malformed header");
    return true;
}

/* info->bytes from type and shape. The product of the other sizes must fit even if one is 0. */
static bool data_size(npy_info *info, char *why)
{
    int64_t bytes = (int64_t)types[info->type].size;
    bool empty = false;
    for (int i = 0; i < info->rank; i++) {
        if (info->shape[i] == 0)
            empty = true;
        else if (__builtin_mul_overflow(bytes, info->shape[i], &bytes))
            return refuse(why, "the shape's product exceeds 64 bits");
    }
    if ((uint64_t)bytes > PTRDIFF_MAX)
        return refuse(why, "larger than this machine's address space");
    info->bytes = empty ? 0 : (size_t)bytes;
    return true;
}

bool npy_parse(npy_info *info, const unsigned char *head, size_t length, char *why)
{
    *info = (npy_info){0};
    if (length < sizeof magic || memcmp(head, magic, sizeof magic) != 0)
        return refuse(why, "not a .npy file");
    if (length < 10)
        return refuse(why, "truncated in the header");
    int major = head[6], minor = head[7];
    if (major < 1 || major > 3 || minor != 0)
        return refuse(why, ".npy version %d.%d is unknown", major, minor);
    size_t start = major == 1 ? 10 : 12;
    if (length < start)
        return refuse(why, "truncated in the header");
    size_t size = head[8] | (size_t)head[9] << 8;
    if (major > 1)
        size |= (size_t)head[10] << 16 | (size_t)head[11] << 24;
    if (size > NPY_MAX_HEADER - start)
        return refuse(why, "header of %zu bytes is too long", size);
    if (size > length - start)
        return refuse(why, "truncated in the header");
    cursor c = {(const char *)head + start, (const char *)head + start + size};
    if (!parse_dictionary(&c, info, why) || !data_size(info, why))
        return false;
    info->offset = start + size;
    return true;
}

/* ---- files ---------------------------------------------------------------------------------- */

/* Reads up to size bytes; returns how many there were, or -1 with errno set. */
static ssize_t read_all(int fd, void *buffer, size_t size)
{
    const size_t most = (size_t)1 << 30; /* read(2) takes no more than 2 GiB at a time */
    size_t done = 0;
    while (done < size) {
        size_t part = size - done < most ? size - done : most;
        ssize_t got = read(fd, (char *)buffer + done, part);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -1;
        if (got == 0)
            break;
        done += (size_t)got;
    }
    return (ssize_t)done;
}

static bool read_header(int fd, npy_info *info, char *why)
{
    unsigned char *head = malloc(NPY_MAX_HEADER);
    if (!head)
        return refuse(why, "out of memory");
    ssize_t got = read_all(fd, head, NPY_MAX_HEADER);
    bool ok = got < 0 ? refuse(why, "%s", strerror(errno))
                      : npy_parse(info, head, (size_t)got, why);
    free(head);
    return ok;
}

static bool read_data(int fd, const npy_info *info, void **data, char *why)
{
    struct stat file;
    if (fstat(fd, &file) < 0)
        return refuse(why, "%s", strerror(errno));
    uint64_t have = (uint64_t)file.st_size - info->offset;
    if (have != info->bytes)
        return refuse(why, "%s: the header promises %zu bytes of data, the file has %" PRIu64,
                      have < info->bytes ? "truncated" : "trailing bytes", info->bytes, have);
    if (posix_memalign(data, 64, info->bytes ? info->bytes : 64)) {
        *data = NULL;
        return refuse(why, "no memory for %zu bytes", info->bytes);
    }
    ssize_t got = -1;
    if (lseek(fd, (off_t)info->offset, SEEK_SET) >= 0)
        got = read_all(fd, *data, info->bytes);
    if (got >= 0 && (size_t)got == info->bytes)
        return true;
    refuse(why, "%s", got < 0 ? strerror(errno) : "truncated while being read");
    free(*data);
    *data = NULL;
    return false;
}

bool npy_read(const char *path, npy_info *info, void **data, char *why)
{
    *data = NULL;
    *info = (npy_info){0};
    /* O_NONBLOCK: a pipe must be refused, not waited for */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return refuse(why, "%s", strerror(errno));
    struct stat file;
    bool ok = false;
    if (fstat(fd, &file) < 0)
        refuse(why, "%s", strerror(errno));
    else if (!S_ISREG(file.st_mode))
        refuse(why, "not a regular file");
    else
        ok = read_header(fd, info, why) && read_data(fd, info, data, why);
    close(fd);
    return ok;
}

bool npy_write(FILE *file, npy_type type, int rank, const int64_t *shape, const void *data)
{
    char text[320]; /* 8 sizes of at most 19 digits, and 80 characters of keys */
    int n = snprintf(text, sizeof text, "{'descr': '%c%s', 'fortran_order': False, 'shape': (",
                     NATIVE_ORDER, types[type].code);
    size_t bytes = types[type].size;
    for (int i = 0; i < rank; i++) {
        const char *comma = rank == 1 ? "," : i + 1 < rank ? ", " : "";
        n += snprintf(text + n, sizeof text - (size_t)n, "%" PRId64 "%s", shape[i], comma);
        bytes *= (size_t)shape[i];
    }
    n += snprintf(text + n, sizeof text - (size_t)n, "), }");
    /* data starts at a multiple of 64, and the header ends with a newline */
    int size = (10 + n + 1 + 63) / 64 * 64 - 10;
    unsigned char start[10] = {0};
    memcpy(start, magic, sizeof magic);
    start[6] = 1;
    start[8] = (unsigned char)(size & 0xff);
    start[9] = (unsigned char)(size >> 8);
    return fwrite(start, 1, sizeof start, file) == sizeof start &&
           fprintf(file, "%s%*s\n", text, size - n - 1, "") == size &&
           fwrite(data, 1, bytes, file) == bytes;
}
