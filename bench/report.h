/* SPDX-License-Identifier: Apache-2.0
 *
 * Results as rows of named columns: printed as tables, written as CSV and JSON.
 */
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef enum report_kind {
    REPORT_INT,
    REPORT_REAL,
    REPORT_BOOL,
    REPORT_TEXT
} report_kind;

enum { REPORT_EVERY_TABLE = -1 };

typedef struct report_column {
    const char *key;   /* in CSV and JSON */
    const char *title; /* in a table; NULL: not shown in one */
    report_kind kind;
    int table;         /* of the tables, the one that shows it, or REPORT_EVERY_TABLE */
    int digits;        /* REPORT_REAL: after the point, or significant ones if negative */
    const char *mark;  /* key of a REPORT_BOOL column: true puts a '*' behind the figure */
} report_column;

typedef struct report report;

/* columns stay the caller's. NULL after a message. */
report *report_create(const report_column *columns, int count);
void report_destroy(report *r);

/* Starts a row. What is not set stays missing: "-" in a table, empty in CSV, null in JSON. A
 * message and exit status on failure. */
int report_row(report *r);
void report_int(report *r, const char *key, int64_t value);
void report_real(report *r, const char *key, double value);
void report_bool(report *r, const char *key, bool value);
void report_text(report *r, const char *key, const char *value);

/* Anything more for the row's JSON object; takes the reference. */
void report_json(report *r, const char *key, json_t *value);

/* A number for JSON; null for NaN and Inf, which JSON lacks. */
json_t *report_json_real(double value);

/* Whether a column is printed in tables (default: yes). */
void report_show(report *r, const char *key, bool shown);

/* Prints the last row of a table, or those from one on, after its head where that is the first; or
 * all rows. */
void report_print_last(const report *r, int table, FILE *file);
void report_print_from(const report *r, int row, int table, FILE *file);
void report_print_all(const report *r, int table, FILE *file);

/* Finds out early whether both can be written (each a path, "-" or NULL); an exit status. */
int report_probe(const char *json, const char *csv);

/* Each writes to a path, or to standard output if it is "-", and returns an exit status. NULL
 * writes nothing. head is an object that receives "results"; its reference is taken. */
int report_write_csv(const report *r, const char *path);
int report_write_json(const report *r, const char *path, json_t *head);

/* The rows as a JSON array of objects; a new reference. */
json_t *report_json_rows(const report *r);

/* Values of the rows, for a plot: NaN where missing. */
int report_rows(const report *r);
double report_value(const report *r, int row, const char *key);
const char *report_text_value(const report *r, int row, const char *key); /* "" where missing */

#endif
