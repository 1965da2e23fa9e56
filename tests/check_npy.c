/* SPDX-License-Identifier: Apache-2.0
 *
 * The .npy reader and writer of the hyperattn program: what NumPy writes is read, whatever else a
 * file holds is refused with a reason that names it; what is written can be read, from a pipe too.
 */
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkmain.h"
#include "npy.h"

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define NATIVE "<"
#define FOREIGN ">"
#else
#define NATIVE ">"
#define FOREIGN "<"
#endif

typedef struct image {
    unsigned char bytes[1024];
    size_t size;
} image;

/* A file: version, a header text of that very length, and data bytes 1, 2, 3, ... */
static image make_image(int major, int minor, const char *header, size_t data)
{
    image f = {{0}, 0};
    size_t length = strlen(header);
    memcpy(f.bytes, "\x93NUMPY", 6);
    f.bytes[6] = (unsigned char)major;
    f.bytes[7] = (unsigned char)minor;
    f.bytes[8] = (unsigned char)(length & 0xff);
    f.bytes[9] = (unsigned char)(length >> 8);
    f.size = major == 1 ? 10 : 12;
    memcpy(f.bytes + f.size, header, length);
    f.size += length;
    for (size_t i = 0; i < data; i++)
        f.bytes[f.size++] = (unsigned char)(i + 1);
    return f;
}

/* Writes a new file and returns its name. */
static const char *write_image(const image *f)
{
    static char path[64];
    strcpy(path, "check_npy.XXXXXX");
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, f->bytes, f->size), (ssize_t)f->size);
    close(fd);
    return path;
}

static void expect_refused(const image *f, const char *reason)
{
    char why[NPY_WHY] = "";
    npy_info info;
    void *data;
    const char *path = write_image(f);
    bool read = npy_read(path, &info, &data, why);
    unlink(path);
    ck_assert_msg(!read, "accepted, though: %s", reason);
    ck_assert_ptr_null(data);
    ck_assert_msg(strstr(why, reason) != NULL, "'%s' does not say '%s'", why, reason);
}

/* ---- accepted ------------------------------------------------------------------------------- */

#define PLAIN "{'descr': '" NATIVE "f4', 'fortran_order': False, 'shape': (2, 3), }\n"

static const struct {
    int major;
    const char *header;
    npy_type type;
    int rank;
    int64_t shape[4];
    size_t bytes;
} accepted[] = {
    {1, PLAIN, NPY_F32, 2, {2, 3}, 24},
    {2, PLAIN, NPY_F32, 2, {2, 3}, 24},
    {3, PLAIN, NPY_F32, 2, {2, 3}, 24},
    {1, "{'descr': '" NATIVE "f2', 'fortran_order': False, 'shape': (5,), }", NPY_F16, 1, {5}, 10},
    {1, "{'descr': '" NATIVE "u2', 'fortran_order': False, 'shape': (1, 2, 3, 4), }   \n", NPY_U16,
     4, {1, 2, 3, 4}, 48},
    {1, "{'descr': '=f4', 'fortran_order': False, 'shape': (), }", NPY_F32, 0, {0}, 4},
    {1, "{'descr': '" NATIVE "f4', 'fortran_order': False, 'shape': (3, 0), }", NPY_F32, 2, {3, 0},
     0},
    /* another order of keys, no commas at the ends, other quotes, Python 2's long integers */
    {1, "{\"shape\":(4L,2L),\"fortran_order\":False,\"descr\":\"" NATIVE "u2\"}", NPY_U16, 2,
     {4, 2}, 16},
};

START_TEST(accepts)
{
    image f = make_image(accepted[_i].major, 0, accepted[_i].header, accepted[_i].bytes);
    char why[NPY_WHY] = "";
    npy_info info;
    void *data;
    const char *path = write_image(&f);
    bool read = npy_read(path, &info, &data, why);
    unlink(path);
    ck_assert_msg(read, "%s: %s", accepted[_i].header, why);
    ck_assert_int_eq(info.type, accepted[_i].type);
    ck_assert_int_eq(info.rank, accepted[_i].rank);
    for (int d = 0; d < info.rank; d++)
        ck_assert_int_eq(info.shape[d], accepted[_i].shape[d]);
    ck_assert_uint_eq(info.bytes, accepted[_i].bytes);
    ck_assert_uint_eq((uintptr_t)data % 64, 0);
    ck_assert_mem_eq(data, f.bytes + info.offset, info.bytes);
    free(data);
}
END_TEST

/* ---- refused -------------------------------------------------------------------------------- */

#define HEADER(descr, order, shape) \
    "{'descr': " descr ", 'fortran_order': " order ", 'shape': " shape ", }"
#define F4 "'" NATIVE "f4'"

static const struct {
    const char *header, *reason;
} refused[] = {
    {HEADER("'|O'", "False", "(2, 3)"), "pickled"},
    {HEADER("'O'", "False", "(2, 3)"), "pickled"},
    {HEADER("'" NATIVE "f8'", "False", "(2, 3)"), "need float32, float16 or uint16"},
    {HEADER("'" NATIVE "i2'", "False", "(2, 3)"), "need float32, float16 or uint16"},
    {HEADER("'|u1'", "False", "(2, 3)"), "need float32, float16 or uint16"},
    {HEADER("''", "False", "(2, 3)"), "need float32, float16 or uint16"},
    {HEADER("'" FOREIGN "f4'", "False", "(2, 3)"), "byte order"},
    {HEADER("'a type name too long'", "False", "(2, 3)"), "malformed dtype"},
    {HEADER("[('a', " F4 ")]", "False", "(2, 3)"), "structured"},
    {HEADER(F4, "True", "(2, 3)"), "Fortran"},
    {HEADER(F4, "0", "(2, 3)"), "fortran_order"},
    {HEADER(F4, "False", "(2, -3)"), "negative"},
    {HEADER(F4, "False", "(2 3)"), "malformed shape"},
    {HEADER(F4, "False", "(6)"), "malformed shape"},
    {HEADER(F4, "False", "[2, 3]"), "malformed shape"},
    {HEADER(F4, "False", "(2, x)"), "malformed shape"},
    {HEADER(F4, "False", "(9223372036854775808,)"), "exceeds 64 bits"},
    {HEADER(F4, "False", "(99999999999999999999999,)"), "exceeds 64 bits"},
    {HEADER(F4, "False", "(4611686018427387904, 4611686018427387904)"), "exceeds 64 bits"},
    /* a product that wraps to the 24 bytes that are there, and one hidden by a zero */
    {HEADER(F4, "False", "(9223372036854775806, 2)"), "exceeds 64 bits"},
    {HEADER(F4, "False", "(0, 4611686018427387904, 4)"), "exceeds 64 bits"},
    {HEADER(F4, "False", "(1, 1, 1, 1, 1, 1, 1, 1, 6)"), "dimensions"},
    {HEADER(F4, "False", "(2, 4)"), "truncated"},
    {HEADER(F4, "False", "(1000000, 1000000, 1000)"), "truncated"},
    {HEADER(F4, "False", "(2, 2)"), "trailing bytes"},
    {HEADER(F4, "False", "()"), "trailing bytes"},
    {HEADER(F4, "False", "(0, 3)"), "trailing bytes"},
    {"{'descr': " F4 ", 'fortran_order': False, }", "lacks"},
    {"{'descr': " F4 ", 'descr': " F4 ", 'fortran_order': False, 'shape': (2, 3), }", "repeated"},
    {"{'descr': " F4 ", 'fortran_order': False, 'shape': (2, 3), 'more': 1, }", "unknown"},
    {"{'descr': " F4 " 'fortran_order': False, 'shape': (2, 3), }", "malformed"},
    {"{'descr': " F4 ", 'fortran_order': False, 'shape': (2, 3), } x", "malformed"},
    {"{'descr': " F4 ", 'fortran_order': False, 'shape': (2, 3), ", "malformed"},
    {"{'descr': '" NATIVE "f4", "malformed"},
    {"", "malformed"},
    {"[]", "malformed"},
};

START_TEST(refuses_header)
{
    image f = make_image(1, 0, refused[_i].header, 24);
    expect_refused(&f, refused[_i].reason);
}
END_TEST

START_TEST(refuses_versions)
{
    image zero = make_image(0, 0, PLAIN, 24), four = make_image(4, 0, PLAIN, 24);
    image minor = make_image(1, 1, PLAIN, 24);
    expect_refused(&zero, "version 0.0");
    expect_refused(&four, "version 4.0");
    expect_refused(&minor, "version 1.1");
}
END_TEST

START_TEST(refuses_other_formats)
{
    image text = {"q,k,v\n1,2,3\n", 12}, zip = {"PK\003\004 an .npz archive", 20};
    expect_refused(&text, "not a .npy file");
    expect_refused(&zip, "not a .npy file");
}
END_TEST

/* Wherever the file ends, that is noticed; the whole file is fine. */
START_TEST(refuses_every_truncation)
{
    image f = make_image(_i, 0, PLAIN, 24);
    size_t whole = f.size;
    for (f.size = 0; f.size < whole; f.size++)
        expect_refused(&f, f.size < 6 ? "not a .npy file" : "truncated");
}
END_TEST

/* A header length of 2.0 that no file of this size has, up to 4 GiB. */
START_TEST(refuses_long_headers)
{
    image f = make_image(2, 0, PLAIN, 24);
    f.bytes[10] = 1;
    expect_refused(&f, "too long");
    f.bytes[11] = 0xff;
    expect_refused(&f, "too long");
}
END_TEST

START_TEST(refuses_what_is_no_file)
{
    char why[NPY_WHY];
    npy_info info;
    void *data;
    ck_assert(!npy_read("check_npy.missing", &info, &data, why));
    ck_assert_ptr_nonnull(strstr(why, "No such file"));
    ck_assert(!npy_read(".", &info, &data, why));
    ck_assert_str_eq(why, "not a regular file");
    char pipe_name[] = "check_npy.XXXXXX";
    int fd = mkstemp(pipe_name);
    close(fd);
    unlink(pipe_name);
    ck_assert_int_eq(mkfifo(pipe_name, 0600), 0);
    bool read = npy_read(pipe_name, &info, &data, why); /* must not wait for a writer */
    unlink(pipe_name);
    ck_assert(!read);
    ck_assert_str_eq(why, "not a regular file");
}
END_TEST

/* The parser reads no byte beyond the given length: exact allocations, for sanitizers. */
START_TEST(parses_any_prefix_and_any_byte)
{
    image whole = make_image(1, 0, PLAIN, 0);
    char why[NPY_WHY];
    for (size_t length = 0; length <= whole.size; length++) {
        for (size_t at = 0; at < length; at++) {
            for (int value = 0; value < 256; value += at < 12 ? 1 : 15) {
                unsigned char *copy = malloc(length);
                memcpy(copy, whole.bytes, length);
                copy[at] = (unsigned char)value;
                npy_info info;
                if (npy_parse(&info, copy, length, why)) {
                    ck_assert_uint_le(info.offset, length);
                    ck_assert_int_le(info.rank, NPY_MAX_RANK);
                }
                free(copy);
            }
        }
    }
}
END_TEST

/* ---- written -------------------------------------------------------------------------------- */

static const struct {
    npy_type type;
    int rank;
    int64_t shape[4];
} written[] = {
    {NPY_F32, 2, {7, 5}}, {NPY_F16, 3, {2, 3, 4}}, {NPY_U16, 4, {2, 1, 3, 5}},
    {NPY_F32, 1, {9}},    {NPY_F32, 0, {0}},       {NPY_F16, 2, {0, 64}},
};

/* What is written needs no seeking: it goes through a pipe. */
START_TEST(round_trips)
{
    unsigned char values[256];
    for (size_t i = 0; i < sizeof values; i++)
        values[i] = (unsigned char)(37 * i);
    int ends[2];
    ck_assert_int_eq(pipe(ends), 0);
    FILE *file = fdopen(ends[1], "w");
    ck_assert(npy_write(file, written[_i].type, written[_i].rank, written[_i].shape, values));
    ck_assert_int_eq(fclose(file), 0);
    image f = {{0}, 0};
    f.size = (size_t)read(ends[0], f.bytes, sizeof f.bytes);
    close(ends[0]);
    char why[NPY_WHY] = "";
    npy_info info;
    void *data;
    const char *path = write_image(&f);
    bool fine = npy_read(path, &info, &data, why);
    unlink(path);
    ck_assert_msg(fine, "%s", why);
    ck_assert_int_eq(info.type, written[_i].type);
    ck_assert_int_eq(info.rank, written[_i].rank);
    size_t bytes = npy_type_size(info.type);
    for (int d = 0; d < info.rank; d++) {
        ck_assert_int_eq(info.shape[d], written[_i].shape[d]);
        bytes *= (size_t)written[_i].shape[d];
    }
    ck_assert_uint_eq(info.bytes, bytes);
    ck_assert_uint_eq(info.offset % 64, 0);
    ck_assert_mem_eq(data, values, bytes);
    free(data);
}
END_TEST

/* The longest header that can be asked for. */
START_TEST(writes_huge_shapes)
{
    const int64_t shape[NPY_MAX_RANK] = {INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX,
                                         INT64_MAX, INT64_MAX, INT64_MAX, 0};
    char path[] = "check_npy.XXXXXX", line[512];
    FILE *file = fdopen(mkstemp(path), "w+");
    ck_assert(npy_write(file, NPY_F32, NPY_MAX_RANK, shape, ""));
    rewind(file);
    size_t size = fread(line, 1, sizeof line, file);
    fclose(file);
    unlink(path);
    ck_assert_uint_eq(size % 64, 0);
    ck_assert_int_eq(line[size - 1], '\n');
}
END_TEST

START_TEST(reports_a_full_disk)
{
    FILE *file = fopen("/dev/full", "w");
    if (!file)
        return; /* only Linux has it */
    setvbuf(file, NULL, _IONBF, 0);
    const int64_t shape[] = {1};
    ck_assert(!npy_write(file, NPY_F32, 1, shape, "abcd"));
    fclose(file);
}
END_TEST

int main(void)
{
    TCase *topic = topic_begin("npy");
    tcase_add_loop_test(topic, accepts, 0, COUNT(accepted));
    tcase_add_loop_test(topic, refuses_header, 0, COUNT(refused));
    tcase_add_test(topic, refuses_versions);
    tcase_add_test(topic, refuses_other_formats);
    tcase_add_loop_test(topic, refuses_every_truncation, 1, 4);
    tcase_add_test(topic, refuses_long_headers);
    tcase_add_test(topic, refuses_what_is_no_file);
    tcase_add_test(topic, parses_any_prefix_and_any_byte);
    tcase_add_loop_test(topic, round_trips, 0, COUNT(written));
    tcase_add_test(topic, writes_huge_shapes);
    tcase_add_test(topic, reports_a_full_disk);
    return topic_end();
}
