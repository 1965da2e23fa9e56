/* SPDX-License-Identifier: Apache-2.0 */
#include "report.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"
#include "outfile.h"
#include "progress.h"

typedef struct cell {
    bool set;
    int64_t integer; /* REPORT_INT, REPORT_BOOL */
    double real;
    char text[64];
} cell;

struct report {
    const report_column *columns;
    int ncolumns, nrows;
    bool *hidden;   /* [ncolumns] */
    cell *cells;    /* [nrows][ncolumns] */
    json_t **extra; /* [nrows], objects */
};

report *report_create(const report_column *columns, int count)
{
    report *r = calloc(1, sizeof *r);
    bool *hidden = calloc((size_t)count, sizeof *hidden);
    if (!r || !hidden) {
        free(r);
        free(hidden);
        failed("out of memory");
        return NULL;
    }
    *r = (report){.columns = columns, .ncolumns = count, .hidden = hidden};
    return r;
}

void report_destroy(report *r)
{
    if (!r)
        return;
    for (int row = 0; row < r->nrows; row++)
        json_decref(r->extra[row]);
    free(r->extra);
    free(r->cells);
    free(r->hidden);
    free(r);
}

static int find(const report *r, const char *key)
{
    int c = 0;
    while (c < r->ncolumns && strcmp(r->columns[c].key, key) != 0)
        c++;
    assert(c < r->ncolumns);
    return c;
}

static cell *cell_at(const report *r, int row, int column)
{
    return &r->cells[(size_t)row * (size_t)r->ncolumns + (size_t)column];
}

int report_row(report *r)
{
    size_t rows = (size_t)r->nrows + 1, columns = (size_t)r->ncolumns;
    cell *cells = realloc(r->cells, rows * columns * sizeof *cells);
    if (cells)
        r->cells = cells;
    json_t **extra = realloc(r->extra, rows * sizeof(*extra));
    if (extra)
        r->extra = extra;
    json_t *object = json_object();
    if (!cells || !extra || !object) {
        json_decref(object);
        return failed("out of memory");
    }
    memset(cells + (rows - 1) * columns, 0, columns * sizeof *cells);
    extra[rows - 1] = object;
    r->nrows++;
    return STATUS_OK;
}

/* The cell of the last row, marked as set. */
static cell *set_cell(report *r, const char *key)
{
    cell *x = cell_at(r, r->nrows - 1, find(r, key));
    x->set = true;
    return x;
}

void report_int(report *r, const char *key, int64_t value)
{
    set_cell(r, key)->integer = value;
}

void report_real(report *r, const char *key, double value)
{
    set_cell(r, key)->real = value;
}

void report_bool(report *r, const char *key, bool value)
{
    set_cell(r, key)->integer = value;
}

void report_text(report *r, const char *key, const char *value)
{
    cell *x = set_cell(r, key);
    snprintf(x->text, sizeof x->text, "%s", value);
}

void report_json(report *r, const char *key, json_t *value)
{
    json_object_set_new(r->extra[r->nrows - 1], key, value);
}

json_t *report_json_real(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

void report_show(report *r, const char *key, bool shown)
{
    r->hidden[find(r, key)] = !shown;
}

int report_rows(const report *r)
{
    return r->nrows;
}

double report_value(const report *r, int row, const char *key)
{
    int column = find(r, key);
    const cell *x = cell_at(r, row, column);
    if (!x->set)
        return NAN;
    return r->columns[column].kind == REPORT_REAL ? x->real : (double)x->integer;
}

const char *report_text_value(const report *r, int row, const char *key)
{
    return cell_at(r, row, find(r, key))->text;
}

/* ---- tables --------------------------------------------------------------------------------- */

static void format_cell(const report *r, int row, int column, char *text, size_t size)
{
    const report_column *def = &r->columns[column];
    const cell *x = cell_at(r, row, column);
    const char *mark = "";
    if (def->mark && cell_at(r, row, find(r, def->mark))->integer)
        mark = "*";
    if (!x->set)
        snprintf(text, size, "-");
    else if (def->kind == REPORT_INT)
        snprintf(text, size, "%" PRId64 "%s", x->integer, mark);
    else if (def->kind == REPORT_BOOL)
        snprintf(text, size, "%s%s", x->integer ? "yes" : "no", mark);
    else if (def->kind == REPORT_TEXT)
        snprintf(text, size, "%s%s", x->text, mark);
    else if (def->digits >= 0)
        snprintf(text, size, "%.*f%s", def->digits, x->real, mark);
    else
        snprintf(text, size, "%#.*g%s", -def->digits, x->real, mark);
}

static int width_of(const report_column *def)
{
    int width = (int)strlen(def->title) + 2;
    return width < 10 ? 10 : width;
}

static bool in_table(const report *r, int column, int table)
{
    const report_column *def = &r->columns[column];
    bool listed = def->table == table || def->table == REPORT_EVERY_TABLE;
    return def->title && listed && !r->hidden[column];
}

static void print_row(const report *r, int row, int table, FILE *file)
{
    for (int c = 0; c < r->ncolumns; c++) {
        if (!in_table(r, c, table))
            continue;
        char text[80];
        format_cell(r, row, c, text, sizeof text);
        fprintf(file, "%*s", width_of(&r->columns[c]), text);
    }
    fputc('\n', file);
}

static void print_head(const report *r, int table, FILE *file)
{
    for (int c = 0; c < r->ncolumns; c++)
        if (in_table(r, c, table))
            fprintf(file, "%*s", width_of(&r->columns[c]), r->columns[c].title);
    fputc('\n', file);
}

void report_print_from(const report *r, int row, int table, FILE *file)
{
    progress_clear();
    if (row == 0 && r->nrows > 0)
        print_head(r, table, file);
    for (; row < r->nrows; row++)
        print_row(r, row, table, file);
    fflush(file);
}

void report_print_last(const report *r, int table, FILE *file)
{
    report_print_from(r, r->nrows - 1, table, file);
}

void report_print_all(const report *r, int table, FILE *file)
{
    report_print_from(r, 0, table, file);
}

/* ---- files ---------------------------------------------------------------------------------- */

int report_probe(const char *json, const char *csv)
{
    int status = outfile_probe(json);
    return status ? status : outfile_probe(csv);
}

static void csv_cell(const report *r, int row, int column, FILE *file)
{
    const cell *x = cell_at(r, row, column);
    if (!x->set)
        return;
    if (r->columns[column].kind == REPORT_REAL)
        fprintf(file, "%.9g", x->real);
    else if (r->columns[column].kind == REPORT_TEXT)
        fprintf(file, "%s", x->text);
    else
        fprintf(file, "%" PRId64, x->integer);
}

int report_write_csv(const report *r, const char *path)
{
    if (!path)
        return STATUS_OK;
    outfile out;
    int status = outfile_open(&out, path);
    if (status)
        return status;
    for (int c = 0; c < r->ncolumns; c++)
        fprintf(out.file, "%s%s", c ? "," : "", r->columns[c].key);
    fputc('\n', out.file);
    for (int row = 0; row < r->nrows; row++) {
        for (int c = 0; c < r->ncolumns; c++) {
            if (c)
                fputc(',', out.file);
            csv_cell(r, row, c, out.file);
        }
        fputc('\n', out.file);
    }
    return outfile_commit(&out);
}

static json_t *json_cell(const report *r, int row, int column)
{
    const cell *x = cell_at(r, row, column);
    json_t *value = NULL;
    switch (r->columns[column].kind) {
    case REPORT_INT:
        value = json_integer(x->integer);
        break;
    case REPORT_REAL:
        value = report_json_real(x->real);
        break;
    case REPORT_BOOL:
        value = json_boolean(x->integer);
        break;
    case REPORT_TEXT:
        value = json_string(x->text);
        break;
    }
    if (x->set && value)
        return value;
    json_decref(value);
    return json_null();
}

json_t *report_json_rows(const report *r)
{
    json_t *rows = json_array();
    for (int row = 0; row < r->nrows; row++) {
        json_t *object = json_object();
        for (int c = 0; c < r->ncolumns; c++)
            json_object_set_new(object, r->columns[c].key, json_cell(r, row, c));
        json_object_update(object, r->extra[row]);
        json_array_append_new(rows, object);
    }
    return rows;
}

int report_write_json(const report *r, const char *path, json_t *head)
{
    if (!path) {
        json_decref(head);
        return STATUS_OK;
    }
    json_object_set_new(head, "results", report_json_rows(r));
    outfile out;
    int status = outfile_open(&out, path);
    if (status == STATUS_OK) {
        int bad = json_dumpf(head, out.file, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
        fputc('\n', out.file);
        if (bad) {
            status = failed("%s: writing failed", path);
            outfile_discard(&out);
        } else {
            status = outfile_commit(&out);
        }
    }
    json_decref(head);
    return status;
}
