/* SPDX-License-Identifier: Apache-2.0
 *
 * The figure of a comparison: what error a method has for its time.
 */
#include "plot.h"

#include <math.h>
#include <string.h>

#include "gnuplot.h"
#include "methods.h"

typedef struct error_figure {
    const report *r;
    const error_keys *keys;
    const char *title;
} error_figure;

/* Of the methods without a line: their errors are those of rounding. */
static bool is_reference(const method_info *method)
{
    return method->method == HYPERATTN_EXACT;
}

static const method_info *method_of(const error_figure *f, int row)
{
    return method_named(report_text_value(f->r, row, "method"));
}

static bool can_draw(double value)
{
    return value > 0 && !isinf(value);
}

/* Errors of rounding have no place on an axis that is for those of an approximation. */
static const double least_error = 1e-5;

static bool has_point(const error_figure *f, int row)
{
    double dot = report_value(f->r, row, f->keys->dot);
    double circle = report_value(f->r, row, f->keys->circle);
    return !is_reference(method_of(f, row)) && can_draw(circle) && dot >= least_error;
}

/* ---- axes ----------------------------------------------------------------------------------- */

typedef struct range {
    double low, high;
} range;

static void widen(range *x, double value)
{
    if (!can_draw(value))
        return;
    x->low = fmin(x->low, value);
    x->high = fmax(x->high, value);
}

/* Tics at 1, 2, 3 and 5 times powers of ten, fewer where the range is long; those of the upper axis
 * are of whole / value. */
static void write_tics(FILE *script, const char *axis, range x, double whole)
{
    static const int steps[] = {1, 2, 5, 3};
    double decades = log10(x.high / x.low);
    int count = decades > 3 ? 1 : decades > 1 ? 3 : 4;
    range shown = x;
    if (whole != 0)
        shown = (range){whole / x.high, whole / x.low};
    const char *separator = "";
    fprintf(script, "set %stics (", axis);
    for (double power = pow(10, floor(log10(shown.low))); power <= shown.high; power *= 10) {
        for (int s = 0; s < count; s++) {
            double value = steps[s] * power;
            if (value < shown.low || value > shown.high)
                continue;
            fprintf(script, "%s'%.3g%s' %.9g", separator, value, whole != 0 ? "x" : "",
                    whole != 0 ? whole / value : value);
            separator = ", ";
        }
    }
    fprintf(script, ")\n");
}

/* That of all errors, so that panels can be compared. */
static void write_error_axis(FILE *script, const error_figure *f)
{
    range error = {INFINITY, 0};
    for (int row = 0; row < report_rows(f->r); row++) {
        if (!has_point(f, row))
            continue;
        widen(&error, report_value(f->r, row, f->keys->dot));
        widen(&error, report_value(f->r, row, f->keys->circle));
    }
    error = error.high == 0 ? (range){1e-3, 1} : (range){error.low / 1.6, error.high * 1.6};
    fprintf(script, "set yrange [%g:%g]\n", error.low, error.high);
    write_tics(script, "y", error, 0);
}

/* Those of time with this n: seconds below, times faster than exact above. */
static void write_time_axes(FILE *script, const error_figure *f, double n)
{
    range time = {INFINITY, 0};
    double exact = 0;
    for (int row = report_rows(f->r) - 1; row >= 0; row--) {
        if (report_value(f->r, row, "n") != n)
            continue;
        exact = report_value(f->r, row, "seconds"); /* exact attention is the first */
        widen(&time, exact);
    }
    time = (range){time.low / 1.6, time.high * 1.6};
    fprintf(script, "set xrange [%g:%g]\nset x2range [%g:%g]\n", time.low, time.high, time.low,
            time.high);
    write_tics(script, "x", time, 0);
    write_tics(script, "x2", time, exact);
}

/* ---- a panel -------------------------------------------------------------------------------- */

/* A vertical line at the time of a method whose error is rounding. */
static void write_reference(FILE *script, const error_figure *f, int row)
{
    const method_info *method = method_of(f, row);
    double seconds = report_value(f->r, row, "seconds");
    fprintf(script,
            "set arrow from first %.9g, graph 0 to first %.9g, graph 1 nohead dt 2 lw 1.5 "
            "lc rgb '%s'\n"
            "set label '%s' at first %.9g, graph 0.97 right rotate by 90 offset -0.7,0 "
            "tc rgb '%s'\n",
            seconds, seconds, method->colour, method->title, seconds, method->colour);
}

/* The points of a method: seconds, dot, bar, circle, budget. Returns how many. */
static int write_block(FILE *script, const error_figure *f, const method_info *method, double n)
{
    int points = 0;
    fprintf(script, "$%s << END\n", method->name);
    for (int row = 0; row < report_rows(f->r); row++) {
        if (report_value(f->r, row, "n") != n || method_of(f, row) != method ||
            !has_point(f, row))
            continue;
        double budget = report_value(f->r, row, "budget");
        double dot = report_value(f->r, row, f->keys->dot);
        double bar = f->keys->bar ? report_value(f->r, row, f->keys->bar) : dot;
        fprintf(script, "%.9g %.9g %.9g %.9g ", report_value(f->r, row, "seconds"), dot, bar,
                report_value(f->r, row, f->keys->circle));
        if (isnan(budget))
            fprintf(script, "\"\"\n");
        else
            fprintf(script, "%.0f\n", budget);
        points++;
    }
    fprintf(script, "END\n");
    return points;
}

/* Its plot commands, after those of other methods. */
static void write_curves(FILE *script, const method_info *method, bool bars)
{
    const char *name = method->name, *colour = method->colour;
    fprintf(script, ", $%s using 1:2:(0):($4-$2) with vectors nohead lw 1 lc rgb '%s' notitle",
            name, colour);
    if (bars)
        fprintf(script, ", $%s using 1:3 with points pt 1 ps 0.7 lw 2 lc rgb '%s' notitle", name,
                colour);
    fprintf(script, ", $%s using 1:4 with points pt 6 ps 0.7 lc rgb '%s' notitle", name, colour);
    fprintf(script, ", $%s using 1:2 with linespoints pt 7 ps 0.9 lw 2 lc rgb '%s' title '%s'",
            name, colour, method->title);
    fprintf(script,
            ", $%s using 1:2:5 with labels right offset -0.8,-0.6 font ',10' tc rgb '%s' notitle",
            name, colour);
}

static void write_panel(FILE *script, const error_figure *f, double n)
{
    const method_info *drawn[MAX_ENTRIES];
    int count = 0;
    char length[32];
    gnuplot_length(length, sizeof length, n);
    fprintf(script, "unset arrow\nunset label\nset title 'n = %s' offset 0,0.3\n", length);
    for (int row = 0; row < report_rows(f->r); row++) {
        if (report_value(f->r, row, "n") != n)
            continue;
        const method_info *method = method_of(f, row);
        if (is_reference(method))
            write_reference(script, f, row);
        else if ((count == 0 || drawn[count - 1] != method) && write_block(script, f, method, n))
            drawn[count++] = method;
    }
    write_time_axes(script, f, n);
    fprintf(script, "plot NaN notitle");
    for (int i = 0; i < count; i++)
        write_curves(script, drawn[i], f->keys->bar != NULL);
    fprintf(script, "\n");
}

static void write_script(FILE *script, const void *figure_pointer)
{
    const error_figure *f = figure_pointer;
    double before = 0;
    int panels = 0;
    for (int row = 0; row < report_rows(f->r); row++) {
        panels += report_value(f->r, row, "n") != before;
        before = report_value(f->r, row, "n");
    }
    int across = (int)ceil(sqrt(panels)), down = (panels + across - 1) / across;
    fprintf(script,
            "set terminal svg size %d,%d dynamic background rgb 'white' font 'sans,13'\n"
            "set encoding utf8\n"
            "set multiplot layout %d,%d title \"%s\\n{/*0.85 %s}\"\n"
            "set logscale xyx2\n"
            "set xtics nomirror\n"
            "set grid xtics ytics lt 1 lc rgb '#dddddd'\n"
            "set key left bottom reverse Left opaque\n"
            "set xlabel 'seconds'\n"
            "set x2label 'times faster than exact' offset 0,-0.5\n"
            "set ylabel 'relative error'\n",
            across == 1 ? 760 : 540 * across, (across == 1 ? 540 : 430 * down) + 50, down, across,
            f->title, f->keys->legend);
    write_error_axis(script, f);
    before = 0;
    for (int row = 0; row < report_rows(f->r); row++) {
        double n = report_value(f->r, row, "n");
        if (n != before)
            write_panel(script, f, n);
        before = n;
    }
    fprintf(script, "unset multiplot\n");
}

int plot_errors(const report *r, const error_keys *keys, const char *title, const char *path)
{
    const error_figure figure = {r, keys, title};
    return gnuplot_draw(path, write_script, &figure);
}
