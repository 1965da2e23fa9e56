/* SPDX-License-Identifier: Apache-2.0 */
#include "plot.h"

#include <math.h>
#include <string.h>

#include "gnuplot.h"

/* One data block: n, value, point type (hollow where exact was timed on one head). Returns the
 * number of points. */
static int write_block(FILE *script, const char *name, const report *r, const char *key,
                       bool causal)
{
    int points = 0;
    fprintf(script, "$%s << END\n", name);
    for (int row = 0; row < report_rows(r); row++) {
        double value = report_value(r, row, key);
        if ((report_value(r, row, "causal") != 0) != causal || !(value > 0) || isinf(value))
            continue;
        bool scaled = report_value(r, row, "scaled") == 1 && strncmp(key, "hyper", 5) != 0;
        fprintf(script, "%.0f %.9g %d\n", report_value(r, row, "n"), value, scaled ? 6 : 7);
        points++;
    }
    fprintf(script, "END\n");
    return points;
}

typedef struct curve {
    const char *name, *key, *title, *style;
    bool causal;
} curve;

static void write_panel(FILE *script, const report *r, const curve *curves, int count)
{
    bool has_points[8];
    int any = 0;
    for (int c = 0; c < count; c++) {
        has_points[c] = write_block(script, curves[c].name, r, curves[c].key, curves[c].causal) > 0;
        any |= has_points[c];
    }
    if (!any) {
        fprintf(script, "set multiplot next\n");
        return;
    }
    const char *separator = "plot";
    for (int c = 0; c < count; c++) {
        if (!has_points[c])
            continue;
        fprintf(script, "%s $%s using 1:2:3 with linespoints pt variable ps 0.9 lw 2 %s title '%s'",
                separator, curves[c].name, curves[c].style, curves[c].title);
        separator = ",";
    }
    fprintf(script, "\n");
}

/* The axis of n, with a tic at each length: in units of 1024 where that is a whole number. */
static void write_n_axis(FILE *script, const report *r)
{
    double first = INFINITY, last = 0;
    const char *separator = "set xtics (";
    for (int row = 0; row < report_rows(r); row++) {
        double n = report_value(r, row, "n");
        char text[32];
        gnuplot_length(text, sizeof text, n);
        fprintf(script, "%s'%s' %.0f", separator, text, n);
        separator = ", ";
        first = fmin(first, n);
        last = fmax(last, n);
    }
    fprintf(script, ")\nset xrange [%.0f:%.0f]\n", floor(first / 1.25), ceil(last * 1.25));
}

typedef struct sweep_figure {
    const report *r;
    bool backward;
    const char *title;
} sweep_figure;

static void write_script(FILE *script, const void *figure_pointer)
{
    const sweep_figure *figure = figure_pointer;
    const report *r = figure->r;
    bool backward = figure->backward;
    const char *exact = backward ? "exact_both_seconds" : "exact_seconds";
    const char *hyper = backward ? "hyper_both_seconds" : "hyper_seconds";
    const char *speedup = backward ? "both_speedup" : "speedup";
    const curve times[] = {
        {"a", exact, "exact", "lc rgb '#666666'", false},
        {"b", hyper, "HyperAttention", "lc rgb '#0060ad'", false},
        {"c", exact, "exact, causal", "lc rgb '#666666' dt 2", true},
        {"d", hyper, "HyperAttention, causal", "lc rgb '#0060ad' dt 2", true},
    };
    const curve speedups[] = {
        {"e", speedup, "not causal", "lc rgb '#0060ad'", false},
        {"f", speedup, "causal", "lc rgb '#0060ad' dt 2", true},
    };
    fprintf(script,
            "set terminal svg size 1000,460 dynamic background rgb 'white' font 'sans,13'\n"
            "set encoding utf8\n"
            "set multiplot layout 1,2 title \"%s\" noenhanced\n"
            "set logscale xy\n"
            "set grid\n"
            "set key left top reverse Left\n"
            "set xlabel 'sequence length n'\n"
            "set ylabel 'seconds'\n",
            figure->title);
    write_n_axis(script, r);
    write_panel(script, r, times, 4);
    fprintf(script, "set ylabel 'times faster than exact'\nset format y '%%g'\n");
    write_panel(script, r, speedups, 2);
    fprintf(script, "unset multiplot\n");
}

int plot_sweep(const report *r, bool backward, const char *title, const char *path)
{
    const sweep_figure figure = {r, backward, title};
    return gnuplot_draw(path, write_script, &figure);
}
