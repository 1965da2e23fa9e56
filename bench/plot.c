/* SPDX-License-Identifier: Apache-2.0 */
#include "plot.h"

#include <math.h>

#include "gnuplot.h"
#include "measure.h"
#include "methods.h"

enum { MAX_CURVES = 2 * SWEEP_METHODS };

typedef struct curve {
    const char *key;
    char title[32];
    const char *colour;
    bool causal;
    bool of_exact; /* has hollow points where exact attention was timed on one head */
} curve;

/* One data block: n, value, point type. Returns the number of points. */
static int write_block(FILE *script, int number, const report *r, const curve *c)
{
    int points = 0;
    fprintf(script, "$block%d << END\n", number);
    for (int row = 0; row < report_rows(r); row++) {
        double value = report_value(r, row, c->key);
        if ((report_value(r, row, "causal") != 0) != c->causal || !(value > 0) || isinf(value))
            continue;
        bool hollow = c->of_exact && report_value(r, row, "scaled") == 1;
        fprintf(script, "%.0f %.9g %d\n", report_value(r, row, "n"), value, hollow ? 6 : 7);
        points++;
    }
    fprintf(script, "END\n");
    return points;
}

static void write_panel(FILE *script, const report *r, const curve *curves, int count)
{
    bool has_points[MAX_CURVES];
    int any = 0;
    for (int c = 0; c < count; c++) {
        has_points[c] = write_block(script, c, r, &curves[c]) > 0;
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
        fprintf(script,
                "%s $block%d using 1:2:3 with linespoints pt variable ps 0.9 lw 2 lc rgb '%s'%s "
                "title '%s'",
                separator, c, curves[c].colour, curves[c].causal ? " dt 2" : "", curves[c].title);
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
    int what, pass;
    const char *title;
} sweep_figure;

/* A curve for each method, not causal and causal. Where there is one speed-up, it needs no name. */
static void write_curves(FILE *script, const sweep_figure *f, bool speedups)
{
    bool alone = !(f->what & MEASURE_HYPER) || !(f->what & MEASURE_MULTIPOLE);
    curve curves[MAX_CURVES];
    int count = 0;
    for (int causal = 0; causal <= 1; causal++) {
        for (int i = 0; i < SWEEP_METHODS; i++) {
            const sweep_method *keys = &sweep_methods[i];
            const method_info *info = method_named(keys->name);
            const char *key = speedups ? keys->speedup[f->pass] : keys->seconds[f->pass];
            if (!key || !(f->what & 1 << i))
                continue;
            curve *c = &curves[count++];
            *c = (curve){key, "", info->colour, causal, speedups || i == SWEEP_EXACT};
            if (speedups && alone)
                snprintf(c->title, sizeof c->title, "%s", causal ? "causal" : "not causal");
            else
                snprintf(c->title, sizeof c->title, "%s%s", info->title, causal ? ", causal" : "");
        }
    }
    write_panel(script, f->r, curves, count);
}

static void write_script(FILE *script, const void *figure_pointer)
{
    const sweep_figure *figure = figure_pointer;
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
    write_n_axis(script, figure->r);
    write_curves(script, figure, false);
    fprintf(script, "set ylabel 'times faster than exact'\nset format y '%%g'\n");
    write_curves(script, figure, true);
    fprintf(script, "unset multiplot\n");
}

int plot_sweep(const report *r, int what, bool backward, const char *title, const char *path)
{
    const sweep_figure figure = {r, what, backward ? PASS_BOTH : PASS_FORWARD, title};
    return gnuplot_draw(path, write_script, &figure);
}
