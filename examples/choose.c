/* SPDX-License-Identifier: Apache-2.0
 *
 * Asks for an error and prints what it got: the method that each head took, and how far its output
 * really is from exact attention, beside the times of both.
 *
 *     cc -O3 choose.c $(pkg-config --cflags --libs libhyperattn) -lm -o choose
 *     ./choose 0.05 8192
 *
 * The heads are made up, from an easy one to hard ones. A text stays with one of 64 topics for a
 * while; a token's query and key are the topic's centre and noise, and so is its value, beside what
 * all values have in common. The first head hardly looks at topics, the last one at nothing else,
 * and the more of a value is noise, the less a mean of many says of the few that matter.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <hyperattn.h>

enum { HEADS = 6, DIM = 64, TOPICS = 64, STAY = 48 };

static void die(const char *what, const char *why)
{
    fprintf(stderr, "choose: %s: %s\n", what, why);
    exit(EXIT_FAILURE);
}

/* Every call of the library that can fail goes through here. */
static void check(hyperattn_status status)
{
    if (status != HYPERATTN_OK)
        die(hyperattn_strerror(status), hyperattn_last_error());
}

static float *floats(size_t count)
{
    float *p = malloc(count * sizeof *p);
    if (!p)
        die("malloc", "out of memory");
    return p;
}

static double now(void)
{
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- input ----------------------------------------------------------------------------------- */

static uint32_t random_word(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 32);
}

/* About normal: the sum of four uniform numbers, of variance 1. */
static float random_normal(uint64_t *state)
{
    double sum = 0;
    for (int i = 0; i < 4; i++)
        sum += random_word(state) * 0x1p-32 - 0.5;
    return (float)(sqrt(3) * sum);
}

static void fill(float *x, size_t count, uint64_t *state)
{
    for (size_t i = 0; i < count; i++)
        x[i] = random_normal(state);
}

typedef struct tensors {
    float *q, *k, *v, *out, *exact; /* [HEADS, n, DIM] */
} tensors;

/* One head; `hard` is 0 for the first and 1 for the last. */
static void make_head(float *q, float *k, float *v, int n, double hard, uint64_t *state)
{
    static float centre[TOPICS][DIM], value[TOPICS][DIM], common[DIM];
    float look = (float)(0.3 + 0.9 * hard), noise = (float)(0.2 + 2 * hard * hard);
    uint32_t mine = 0;
    fill(centre[0], TOPICS * DIM, state);
    fill(value[0], TOPICS * DIM, state);
    fill(common, DIM, state);
    for (int i = 0; i < n; i++) {
        if (i % STAY == 0)
            mine = random_word(state) % TOPICS;
        for (int e = 0; e < DIM; e++, q++, k++, v++) {
            *q = look * (centre[mine][e] + 0.5f * random_normal(state));
            *k = centre[mine][e] + 0.5f * random_normal(state);
            *v = common[e] + 0.5f * value[mine][e] + noise * random_normal(state);
        }
    }
}

static tensors make_tensors(int n)
{
    size_t head = (size_t)n * DIM, all = HEADS * head;
    tensors t = {floats(all), floats(all), floats(all), floats(all), floats(all)};
    uint64_t state = 1;
    for (int h = 0; h < HEADS; h++)
        make_head(t.q + h * head, t.k + h * head, t.v + h * head, n, (double)h / (HEADS - 1),
                  &state);
    return t;
}

/* ---- the whole ------------------------------------------------------------------------------- */

/* |out - exact| / |exact| of one head. */
static double error_of(const float *out, const float *exact, size_t count)
{
    double apart = 0, all = 0;
    for (size_t i = 0; i < count; i++) {
        apart += ((double)out[i] - exact[i]) * ((double)out[i] - exact[i]);
        all += (double)exact[i] * exact[i];
    }
    return sqrt(apart / all);
}

static void print_head(int h, const hyperattn_plan *plan, const hyperattn_choice *c, double error)
{
    static const char *const names[] = {"auto", "exact", "hyper", "multipole"};
    hyperattn_params p;
    hyperattn_params_init(&p);
    check(hyperattn_plan_step(plan, c->step, &p));
    printf("%4d  %-9s  %6d  %-7s  %5d  ", h, names[c->method], c->budget,
           c->method != HYPERATTN_MULTIPOLE ? "" : p.private_depth < 0 ? "no" : "yes", c->tried);
    if (c->rows_checked)
        printf("%9.4f", c->rel_error);
    else
        printf("%9s", "-");
    printf("  %8.4f\n", error);
}

int main(int argc, char **argv)
{
    double target = argc > 1 ? atof(argv[1]) : 0.05;
    int n = argc > 2 ? atoi(argv[2]) : 8192;
    if (argc > 3 || n < 1 || n > 1 << 20)
        die("usage", "choose [target_error [n]]");

    hyperattn_ctx *ctx;
    hyperattn_plan *exact, *plan;
    hyperattn_problem problem;
    hyperattn_params params;
    hyperattn_choice choice[HEADS];
    hyperattn_problem_init(&problem);
    problem.nheads = HEADS;
    problem.seqlen_q = n;
    problem.head_dim = DIM;
    problem.causal = 1;
    hyperattn_params_init(&params);
    check(hyperattn_ctx_create(&ctx, NULL));
    check(hyperattn_plan_create(&exact, ctx, &problem, &params)); /* AUTO without target_error */
    params.target_error = (float)target;
    check(hyperattn_plan_create(&plan, ctx, &problem, &params));

    tensors t = make_tensors(n);
    double start = now();
    check(hyperattn_forward(exact, t.q, t.k, t.v, t.exact, NULL, NULL));
    double exact_time = now() - start;
    hyperattn_choice_init(&choice[0]);
    start = now();
    check(hyperattn_forward_report(plan, t.q, t.k, t.v, t.out, NULL, NULL, choice));
    double time = now() - start, worst = 0;

    printf("head  method     budget  private  tried  estimated     error\n");
    for (int h = 0; h < HEADS; h++) {
        size_t head = (size_t)n * DIM;
        double error = error_of(t.out + h * head, t.exact + h * head, head);
        worst = error > worst ? error : worst;
        print_head(h, plan, &choice[h], error);
    }
    printf("asked for %g, got %.4f at most, in %.2f times the time of exact attention\n", target,
           worst, time / exact_time);

    hyperattn_plan_destroy(plan);
    hyperattn_plan_destroy(exact);
    hyperattn_ctx_destroy(ctx);
    free(t.q);
    free(t.k);
    free(t.v);
    free(t.out);
    free(t.exact);
    return EXIT_SUCCESS;
}
