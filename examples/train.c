/* SPDX-License-Identifier: Apache-2.0
 *
 * Trains a small model on long sequences with exact attention and with HyperAttention, or with
 * MULTIPOLE, from the same weights on the same data, and prints the loss and the time of each.
 *
 *     cc -O3 -march=native train.c $(pkg-config --cflags --libs libhyperattn) -lm -o train
 *     ./train --plot train.svg
 *     ./train --n 4096 --steps 60 --method all
 *
 * The task is to look things up. A sequence of n tokens is a dictionary of n/2 entries, a word with
 * its class each, followed by n/2 questions, a word each, whose class the model must name. Every
 * word occurs once in either half, in random order. Each step has a new dictionary, so nothing can
 * be learned by heart: the answer is in one token among n, n/2 tokens away on average, and without
 * attention to it the loss stays at ln(CLASSES). One answer in ten is drawn at random; the loss
 * that a perfect reader has for this reason is printed as the best possible.
 *
 * The model; what is in capitals is learned:
 *
 *     x = WORD[word]                                [n, MODEL]
 *     q = k = x PROJECT                             [n, HEADS, HEAD_DIM]
 *     v = CLASS[class], at the questions BLANK's    [n, HEADS, HEAD_DIM]
 *     p = softmax(attention(q, k, v) READOUT)       [n/2, CLASSES], at the questions
 *
 * At the start attention is spread over the whole sequence. What has to be learned is to point.
 *
 * Queries and keys share PROJECT, and that matters: a question and its entry have the same hash,
 * and sortLSH puts them into one block, from the first step to the last. With a projection each,
 * even the same at the start, nothing in the gradient holds a query and its key together. They
 * drift apart, and after eighty steps HyperAttention misses nearly every other answer. MULTIPOLE
 * has no hash: it looks for the keys that each query wants, by codes that tell a part of a score.
 * These words resemble each other in nothing, which is hard for it: up to 4096 tokens it finds
 * every answer, and learns as exact attention does; at 8192, where more keys look promising than it
 * has room for, it comes to miss one in eight, and with --causal 1 one in six at 2048.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <hyperattn.h>

enum { HEADS = 2, HEAD_DIM = 64, WIDTH = HEADS * HEAD_DIM, MODEL = 64 };
enum { CLASSES = 64, BLANK = CLASSES };

static const double NOISE = 0.1; /* share of answers drawn at random */

static void die(const char *what, const char *why)
{
    fprintf(stderr, "train: %s: %s\n", what, why);
    exit(EXIT_FAILURE);
}

/* Every call of the library that can fail goes through here. */
static void check(hyperattn_status status)
{
    if (status != HYPERATTN_OK)
        die(hyperattn_strerror(status), hyperattn_last_error());
}

static void *zeros(size_t count, size_t size)
{
    void *p = calloc(count, size);
    if (!p)
        die("calloc", "out of memory");
    return p;
}

static double now(void)
{
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static uint32_t random_below(uint64_t *state, uint32_t n)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((*state >> 32) * n >> 32);
}

/* Uniform, of this standard deviation. */
static void fill_random(float *x, size_t count, double deviation, uint64_t *state)
{
    for (size_t i = 0; i < count; i++)
        x[i] = (float)(sqrt(3) * deviation * (random_below(state, 1 << 24) * 0x1p-23 - 1));
}

/* ---- matrices -------------------------------------------------------------------------------- */

/* y [rows, b] = x [rows, a] w [a, b] */
static void multiply(float *restrict y, const float *restrict x, const float *restrict w, int rows,
                     int a, int b)
{
    memset(y, 0, (size_t)rows * b * sizeof *y);
    for (int i = 0; i < rows; i++, x += a, y += b)
        for (int m = 0; m < a; m++)
            for (int c = 0; c < b; c++)
                y[c] += x[m] * w[m * b + c];
}

/* Its gradients: dx = dy w^T, dw += x^T dy. */
static void multiply_backward(float *restrict dx, float *restrict dw, const float *restrict dy,
                              const float *restrict x, const float *restrict w, int rows, int a,
                              int b)
{
    float transposed[WIDTH * WIDTH];
    for (int m = 0; m < a; m++)
        for (int c = 0; c < b; c++)
            transposed[c * a + m] = w[m * b + c];
    multiply(dx, dy, transposed, rows, b, a);
    for (int i = 0; i < rows; i++, x += a, dy += b)
        for (int m = 0; m < a; m++)
            for (int c = 0; c < b; c++)
                dw[m * b + c] += x[m] * dy[c];
}

static void add(float *restrict to, const float *restrict from, int count)
{
    for (int i = 0; i < count; i++)
        to[i] += from[i];
}

/* ---- task ------------------------------------------------------------------------------------ */

typedef struct sequence {
    int n;       /* tokens; the first half are entries, the second questions */
    int *word;   /* [n] */
    int *class;  /* [n] */
    int *truth;  /* [n/2], what the dictionary says to each question */
    int *answer; /* [n/2], what the loss asks for */
    int *lookup; /* [n/2], the class of each word */
} sequence;

static sequence new_sequence(int n)
{
    size_t half = (size_t)n / 2;
    int *all = zeros(7 * half, sizeof *all);
    return (sequence){n, all, all + 2 * half, all + 4 * half, all + 5 * half, all + 6 * half};
}

static void shuffle(int *words, int count, uint64_t *state)
{
    for (int i = 0; i < count; i++) {
        int j = (int)random_below(state, (uint32_t)i + 1);
        words[i] = words[j];
        words[j] = i;
    }
}

static void draw_sequence(sequence *s, uint64_t *state)
{
    int half = s->n / 2;
    shuffle(s->word, half, state);
    shuffle(s->word + half, half, state);
    for (int i = 0; i < half; i++) {
        s->class[i] = s->lookup[s->word[i]] = (int)random_below(state, CLASSES);
        s->class[half + i] = BLANK;
    }
    for (int i = 0; i < half; i++) {
        int noisy = random_below(state, 1 << 24) < NOISE * (1 << 24);
        s->truth[i] = s->lookup[s->word[half + i]];
        s->answer[i] = noisy ? (int)random_below(state, CLASSES) : s->truth[i];
    }
}

/* The loss of a reader that knows the truth, and the noise. */
static double best_loss(void)
{
    double wrong = NOISE / CLASSES, right = 1 - NOISE + wrong;
    return -right * log(right) - (CLASSES - 1) * wrong * log(wrong);
}

/* ---- model ----------------------------------------------------------------------------------- */

/* What is learned, or its gradients: four parts of one array. */
typedef struct weights {
    float *word;    /* [n/2, MODEL] */
    float *project; /* [MODEL, WIDTH] */
    float *class;   /* [CLASSES + 1, WIDTH] */
    float *readout; /* [WIDTH, CLASSES] */
} weights;

typedef struct model {
    int n;
    size_t count; /* of weights */
    weights value, gradient;
    float *mean, *square; /* Adam's averages, [count] */
    float *x, *dx;                             /* [n, MODEL] */
    float *qk, *v, *out, *dq, *dk, *dv, *dout; /* [n, HEADS, HEAD_DIM] */
    float *logits;                             /* [n/2, CLASSES], then their gradients */
    float *lse;                                /* [HEADS, n] */
    float *memory;                             /* all of the above */
    hyperattn_ctx *ctx;
    hyperattn_problem problem;
    void *workspace;
    size_t workspace_size;
    double attention; /* seconds in it so far */
} model;

static weights parts_of(float *all, int n)
{
    weights w = {.word = all};
    w.project = w.word + (size_t)n / 2 * MODEL;
    w.class = w.project + MODEL * WIDTH;
    w.readout = w.class + (CLASSES + 1) * WIDTH;
    return w;
}

static void new_model(model *m, int n, int causal)
{
    size_t narrow = (size_t)n * MODEL, wide = (size_t)n * WIDTH, logits = (size_t)n / 2 * CLASSES;
    size_t count = narrow / 2 + MODEL * WIDTH + (CLASSES + 1) * WIDTH + WIDTH * CLASSES;
    *m = (model){.n = n, .count = count};
    float *next = m->memory = zeros(4 * count + 2 * narrow + 7 * wide + logits + HEADS * (size_t)n,
                                    sizeof *next);
    m->value = parts_of(next, n);
    m->gradient = parts_of(next + count, n);
    m->mean = next + 2 * count;
    m->square = next + 3 * count;
    m->x = next += 4 * count;
    m->dx = next += narrow;
    float **attention[] = {&m->qk, &m->v, &m->out, &m->dq, &m->dk, &m->dv, &m->dout};
    next += narrow;
    for (int i = 0; i < 7; i++, next += wide)
        *attention[i] = next;
    m->logits = next;
    m->lse = next + logits;

    check(hyperattn_ctx_create(&m->ctx, NULL));
    hyperattn_problem_init(&m->problem);
    m->problem.nheads = HEADS;
    m->problem.seqlen_q = n;
    m->problem.head_dim = HEAD_DIM;
    m->problem.causal = causal;
    const int64_t stride[3] = {(int64_t)wide, HEAD_DIM, WIDTH}; /* batch, head, row */
    memcpy(m->problem.q_stride, stride, sizeof stride);
    memcpy(m->problem.k_stride, stride, sizeof stride);
    memcpy(m->problem.v_stride, stride, sizeof stride);
    memcpy(m->problem.out_stride, stride, sizeof stride);
}

static void start_model(model *m, uint64_t seed)
{
    fill_random(m->value.word, (size_t)m->n / 2 * MODEL, 1, &seed);
    fill_random(m->value.project, MODEL * WIDTH, 0.7 / sqrt(MODEL), &seed);
    fill_random(m->value.class, (CLASSES + 1) * WIDTH, 0.3, &seed);
    fill_random(m->value.readout, WIDTH * CLASSES, 0.3 / sqrt(WIDTH), &seed);
    memset(m->mean, 0, m->count * sizeof *m->mean);
    memset(m->square, 0, m->count * sizeof *m->square);
    m->attention = 0;
}

/* A plan is cheap beside a step. HyperAttention has hashes and samples of its own in each, so that
 * what those of one step miss, the next will find; MULTIPOLE takes its defaults. */
static hyperattn_plan *new_plan(model *m, hyperattn_method method, uint64_t seed)
{
    hyperattn_params params;
    hyperattn_plan *plan;
    hyperattn_params_init(&params);
    params.method = method;
    params.block_size = params.sample_size = m->n < 2048 ? m->n / 8 : 256;
    params.lsh_num_projs = 16; /* hardly two words share a bucket: matches stand side by side */
    params.num_sinks = 0;      /* no token is of use to every question */
    params.seed = seed;
    check(hyperattn_plan_create(&plan, m->ctx, &m->problem, &params));

    /* One workspace serves all calls. Its size depends on the method, but not on the seed. */
    size_t forward = hyperattn_plan_workspace(plan, 0), need = hyperattn_plan_workspace(plan, 1);
    need = ((forward > need ? forward : need) + 63) / 64 * 64;
    if (need > m->workspace_size) {
        free(m->workspace);
        m->workspace = aligned_alloc(64, need);
        if (!m->workspace)
            die("aligned_alloc", "out of memory");
        m->workspace_size = need;
    }
    return plan;
}

/* Fills the logits. */
static void forward(model *m, const hyperattn_plan *plan, const sequence *s)
{
    int half = m->n / 2;
    for (size_t t = 0; t < (size_t)m->n; t++) {
        memcpy(m->x + t * MODEL, m->value.word + s->word[t] * MODEL, MODEL * sizeof(float));
        memcpy(m->v + t * WIDTH, m->value.class + s->class[t] * WIDTH, WIDTH * sizeof(float));
    }
    multiply(m->qk, m->x, m->value.project, m->n, MODEL, WIDTH);

    double start = now();
    check(hyperattn_forward(plan, m->qk, m->qk, m->v, m->out, m->lse, m->workspace));
    m->attention += now() - start;

    multiply(m->logits, m->out + (size_t)half * WIDTH, m->value.readout, half, WIDTH, CLASSES);
}

typedef struct score {
    double loss, accuracy; /* mean cross-entropy; share of questions where the truth is likeliest */
} score;

/* Turns the logits into their gradients. */
static score mark(model *m, const sequence *s)
{
    int half = m->n / 2;
    score sum = {0, 0};
    for (int i = 0; i < half; i++) {
        float *row = m->logits + (size_t)i * CLASSES, total = 0;
        int best = 0;
        for (int c = 1; c < CLASSES; c++)
            best = row[c] > row[best] ? c : best;
        float top = row[best], asked = row[s->answer[i]] - top;
        for (int c = 0; c < CLASSES; c++)
            total += row[c] = expf(row[c] - top);
        for (int c = 0; c < CLASSES; c++)
            row[c] = (row[c] / total - (c == s->answer[i])) / (float)half;
        sum.loss += logf(total) - asked;
        sum.accuracy += best == s->truth[i];
    }
    return (score){sum.loss / half, sum.accuracy / half};
}

/* Fills the gradients of the weights from those of the logits. */
static void backward(model *m, const hyperattn_plan *plan, const sequence *s)
{
    size_t half = (size_t)m->n / 2;
    weights *g = &m->gradient;
    memset(g->word, 0, m->count * sizeof(float));
    memset(m->dout, 0, half * WIDTH * sizeof(float)); /* nothing is asked of the entries */
    multiply_backward(m->dout + half * WIDTH, g->readout, m->logits, m->out + half * WIDTH,
                      m->value.readout, (int)half, WIDTH, CLASSES);

    /* The plan, q, k, v, out and lse are those of forward: nothing else had to be kept. */
    double start = now();
    check(hyperattn_backward(plan, m->qk, m->qk, m->v, m->out, m->lse, m->dout, m->dq, m->dk,
                             m->dv, m->workspace));
    m->attention += now() - start;

    for (size_t t = 0; t < (size_t)m->n; t++) {
        add(m->dq + t * WIDTH, m->dk + t * WIDTH, WIDTH); /* as q and k are one */
        add(g->class + s->class[t] * WIDTH, m->dv + t * WIDTH, WIDTH);
    }
    multiply_backward(m->dx, g->project, m->dq, m->x, m->value.project, m->n, MODEL, WIDTH);
    for (size_t t = 0; t < (size_t)m->n; t++)
        add(g->word + s->word[t] * MODEL, m->dx + t * MODEL, MODEL);
}

/* Adam, with a rate that rises over ten steps and falls to 0 over the last third. */
static void update(model *m, int step, int steps)
{
    const double b1 = 0.9, b2 = 0.99;
    double rate = 0.01 * fmin(1, fmin((step + 1) / 10.0, 3.0 * (steps - step) / steps));
    float scale = (float)(rate / (1 - pow(b1, step + 1)));
    float unbias = (float)(1 / (1 - pow(b2, step + 1)));
    float *value = m->value.word;
    const float *g = m->gradient.word;
    for (size_t i = 0; i < m->count; i++) {
        m->mean[i] += (float)(1 - b1) * (g[i] - m->mean[i]);
        m->square[i] += (float)(1 - b2) * (g[i] * g[i] - m->square[i]);
        value[i] -= scale * m->mean[i] / (sqrtf(m->square[i] * unbias) + 1e-9f);
    }
}

/* ---- training -------------------------------------------------------------------------------- */

typedef struct curve {
    const char *name, *colour;
    hyperattn_method method;
    int steps;
    double *loss, *seconds; /* [steps], and since the first began; one array */
    score last;             /* mean over the last tenth of the steps */
} curve;

static void train(model *m, curve *c, sequence *s, uint64_t seed)
{
    int tenth = c->steps < 10 ? 1 : c->steps / 10;
    uint64_t data = seed + 1;
    double start = now();
    c->loss = zeros(2 * (size_t)c->steps, sizeof *c->loss);
    c->seconds = c->loss + c->steps;
    start_model(m, seed);
    for (int step = 0; step < c->steps; step++) {
        draw_sequence(s, &data);
        hyperattn_plan *plan = new_plan(m, c->method, seed + (uint64_t)step);
        forward(m, plan, s);
        score got = mark(m, s);
        backward(m, plan, s);
        hyperattn_plan_destroy(plan);
        update(m, step, c->steps);

        c->loss[step] = got.loss;
        c->seconds[step] = now() - start;
        if (step >= c->steps - tenth) {
            c->last.loss += got.loss / tenth;
            c->last.accuracy += got.accuracy / tenth;
        }
        if ((step + 1) % tenth == 0 || step == 0)
            printf("%-14s %5d %9.4f %9.4f %9.3f %10.3f\n", c->name, step + 1, got.loss,
                   got.accuracy, c->seconds[step] / (step + 1), m->attention / (step + 1));
        fflush(stdout);
    }
    printf("%-14s  last %9.4f %9.4f   %.1f s in all\n\n", c->name, c->last.loss, c->last.accuracy,
           c->seconds[c->steps - 1]);
}

/* ---- plot ------------------------------------------------------------------------------------ */

enum { PANEL_WIDTH = 400, PANEL_HEIGHT = 300 };

static double length_of(const curve *c, int seconds)
{
    return seconds ? c->seconds[c->steps - 1] : c->steps;
}

/* Loss against the step, or against seconds. */
static void draw_panel(FILE *f, const curve *curves, int count, int seconds)
{
    double end = 0, top = 1.1 * log(CLASSES), down = -PANEL_HEIGHT / top;
    for (int i = 0; i < count; i++) {
        double length = length_of(&curves[i], seconds);
        if (length > end)
            end = length;
    }
    double right = PANEL_WIDTH / end, tick = pow(10, floor(log10(end)));
    while (end / tick < 4)
        tick /= 2;
    fprintf(f, "<g transform='translate(%d,360)'>\n", seconds ? 530 : 60);
    for (double x = 0; x <= end; x += tick)
        fprintf(f, "<path d='M%.1f 0v%d' stroke='#ddd'/>"
                "<text x='%.1f' y='18' text-anchor='middle'>%g</text>\n",
                x * right, -PANEL_HEIGHT, x * right, x);
    for (int y = 0; y <= top; y++)
        fprintf(f, "<path d='M0 %.1fh%d' stroke='#ddd'/>"
                "<text x='-8' y='%.1f' text-anchor='end'>%d</text>\n",
                y * down, PANEL_WIDTH, y * down + 4, y);
    fprintf(f, "<path d='M0 %.1fh%d' stroke='#393' stroke-dasharray='5'/>\n", best_loss() * down,
            PANEL_WIDTH);
    for (const curve *c = curves; c < curves + count; c++) {
        fprintf(f, "<polyline fill='none' stroke='%s' stroke-width='2' points='", c->colour);
        for (int i = 0; i < c->steps; i++)
            fprintf(f, "%.1f,%.1f ", (seconds ? c->seconds[i] : i + 1) * right, c->loss[i] * down);
        fprintf(f, "'/>\n");
    }
    fprintf(f, "<text x='%d' y='40' text-anchor='middle'>%s</text></g>\n", PANEL_WIDTH / 2,
            seconds ? "seconds" : "step");
}

static void draw(const char *path, const curve *curves, int count, int n)
{
    FILE *f = fopen(path, "w");
    if (!f)
        die(path, "cannot be written");
    fprintf(f, "<svg xmlns='http://www.w3.org/2000/svg' width='960' height='420' "
            "font-family='sans-serif' font-size='13'>\n<rect width='960' height='420' "
            "fill='white'/>\n<text x='60' y='34'>training loss, n = %d (dashed: the best possible)"
            "</text>\n", n);
    for (int i = 0; i < count; i++)
        fprintf(f, "<path d='M%d 30h24' stroke='%s' stroke-width='2'/><text x='%d' y='34'>%s</text>"
                "\n", 470 + 160 * i, curves[i].colour, 500 + 160 * i, curves[i].name);
    draw_panel(f, curves, count, 0);
    draw_panel(f, curves, count, 1);
    fprintf(f, "</svg>\n");
    if (ferror(f) | fclose(f))
        die(path, "cannot be written");
}

/* ---- main ------------------------------------------------------------------------------------ */

enum { METHODS = 3 };

static const struct {
    const char *name;
    curve curve;
} methods[METHODS] = {
    {"exact", {"exact", "#666", HYPERATTN_EXACT, 0, NULL, NULL, {0, 0}}},
    {"hyper", {"HyperAttention", "#06a", HYPERATTN_HYPER, 0, NULL, NULL, {0, 0}}},
    {"multipole", {"MULTIPOLE", "#c50", HYPERATTN_MULTIPOLE, 0, NULL, NULL, {0, 0}}},
};

enum { N, STEPS, SEED, CAUSAL, METHOD, PLOT, OPTIONS };

static const char *option[OPTIONS][2] = {{"--n", "16384"},  {"--steps", "80"},    {"--seed", "1"},
                                         {"--causal", "0"}, {"--method", "both"}, {"--plot", ""}};

static void parse_options(int argc, char **argv)
{
    for (int i = 1, o; i < argc; i += 2) {
        for (o = 0; o < OPTIONS && strcmp(argv[i], option[o][0]) != 0;)
            o++;
        if (o == OPTIONS || i + 1 == argc)
            die(argv[i], "usage: train [--n TOKENS] [--steps NUMBER] [--seed NUMBER] "
                         "[--causal 0|1] [--method exact|hyper|multipole|both|all] "
                         "[--plot FILE.svg]");
        option[o][1] = argv[i + 1];
    }
}

static int number(int o, int least, int most)
{
    char *end;
    long value = strtol(option[o][1], &end, 10);
    if (end == option[o][1] || *end || value < least || value > most)
        die(option[o][0], "not a number, or out of range");
    return (int)value;
}

int main(int argc, char **argv)
{
    parse_options(argc, argv);
    int n = number(N, 16, 1 << 24) / 2 * 2, steps = number(STEPS, 1, 1000000);
    int seed = number(SEED, 0, 1000000000), causal = number(CAUSAL, 0, 1), count = 0;
    const char *method = option[METHOD][1], *plot = option[PLOT][1];
    curve curves[METHODS];
    for (int i = 0; i < METHODS; i++)
        if (strcmp(method, "all") == 0 || strcmp(method, methods[i].name) == 0 ||
            (strcmp(method, "both") == 0 && methods[i].curve.method != HYPERATTN_MULTIPOLE)) {
            curves[count] = methods[i].curve;
            curves[count++].steps = steps;
        }
    if (count == 0)
        die(method, "not a method");
    sequence s = new_sequence(n);
    model m;
    new_model(&m, n, causal);
    printf("%d tokens, %d heads of %d%s; libhyperattn %s, level %s\n"
           "loss without attention %.4f, best possible %.4f\n\n"
           "method          step      loss  accuracy    s/step  attention\n",
           n, HEADS, HEAD_DIM, causal ? ", causal" : "", hyperattn_version(),
           hyperattn_ctx_isa(m.ctx), log(CLASSES), best_loss());
    for (int i = 0; i < count; i++)
        train(&m, &curves[i], &s, (uint64_t)seed);
    for (int i = 1; i < count; i++)
        printf("%s: %.3f times the loss, %.3f times the time of exact attention\n", curves[i].name,
               curves[i].last.loss / curves[0].last.loss,
               curves[i].seconds[steps - 1] / curves[0].seconds[steps - 1]);
    if (*plot)
        draw(plot, curves, count, n);

    for (int i = 0; i < count; i++)
        free(curves[i].loss);
    free(s.word);
    free(m.memory);
    free(m.workspace);
    hyperattn_ctx_destroy(m.ctx);
    return EXIT_SUCCESS;
}
