/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/detect.h"

#include <math.h>
#include <string.h>

#include "int64.h"

/* Rows and keys from which an epoch's directions are found. */
#define SAMPLES 512

/* Standard deviations of the strongest direction that a code spans. */
#define SPAN 4

/* One thread's buffers. */
typedef struct ha_detect_thread {
    float *rows;       /* [SAMPLES][ldk] */
    float *c, *m, *scratch;
    ha_basis basis;
    float *projection; /* of the keys of a cell */
    float *centre;     /* of a column, and that */
} ha_detect_thread;

int ha_detects(const ha_cpu_plan *plan)
{
    return ha_recipe_for(plan, &plan->max).depth > 0 &&
           plan->problem->head_dim <= HA_BASIS_DIM;
}

static void carve_thread(ha_carver *c, const ha_cpu_plan *plan, ha_detect_thread *t)
{
    const ha_kernels *k = plan->kernels;
    int64_t d = plan->problem->head_dim, ldk = ha_cells_ldk(plan);
    int64_t rows = ha_round_up(HA_SHORT_STRETCH, k->f32.mr);
    int64_t ldp = ha_round_up(HA_BASIS, k->f32.lanes);
    /* load_q fills the MR rows that its last ones belong to */
    t->rows = ha_carve(c, (SAMPLES + k->f32.mr) * ldk, sizeof(float));
    t->c = ha_carve(c, d * ldk, sizeof(float));
    t->m = ha_carve(c, d * ldk, sizeof(float));
    t->scratch = ha_carve(c, ha_basis_scratch(d), sizeof(float));
    t->basis.query = ha_carve(c, d * HA_BASIS, sizeof(float));
    t->basis.key = ha_carve(c, d * HA_BASIS, sizeof(float));
    t->projection = ha_carve(c, rows * ldp, sizeof(float));
    t->centre = ha_carve(c, k->f32.mr * (ldp + ldk), sizeof(float));
}

static void carve_directions(ha_carver *c, const ha_cpu_plan *plan, ha_epoch_basis *directions)
{
    size_t bytes = ha_k_bytes(&plan->kernels->f32, HA_BASIS, plan->problem->head_dim);
    for (int side = 0; side < 2; side++)
        directions->packed[side] = ha_carve(c, (int64_t)bytes, 1);
}

void ha_detectors_carve(ha_carver *c, const ha_cpu_plan *plan, int nthreads, ha_detectors *d)
{
    const ha_recipe r = ha_recipe_for(plan, &plan->max);
    int64_t heads = ha_detects(plan) ? plan->in_flight * plan->group : 0;
    int64_t dim = plan->problem->head_dim;
    ha_epoch_basis unused;
    int64_t cells = ha_round_up(ha_most_cells(plan), plan->kernels->f32.nr);
    d->heads = ha_carve(c, heads, sizeof *d->heads);
    for (int64_t i = 0; i < heads; i++) {
        ha_detector none, *det = c->base ? &d->heads[i] : &none;
        det->epochs = ha_carve(c, ha_most_eras(plan), sizeof *det->epochs);
        for (int64_t e = 0; e < ha_most_eras(plan); e++)
            carve_directions(c, plan, c->base ? &det->epochs[e] : &unused);
        det->codes = ha_carve(c, cells * ha_code_blocks(&r) * HA_CODE_BLOCK, 1);
        det->boxes = ha_carve(c, cells / HA_CODE_KEYS * 2 * HA_CODE_BLOCK, 1);
        det->columns = ha_carve(c, (int64_t)ha_k_bytes(&plan->kernels->f32, cells, dim), 1);
    }
    d->threads = ha_carve(c, nthreads, sizeof *d->threads);
    for (int i = 0; heads && i < nthreads; i++) {
        ha_detect_thread none, *t = c->base ? &d->threads[i] : &none;
        carve_thread(c, plan, t);
    }
}

/* ---- directions ------------------------------------------------------------------------------ */

/* sum[i][j] = sum over n rows of x_i x_j. */
static void moments(const ha_cpu_plan *plan, const ha_detect_thread *t, float *sum, int64_t n)
{
    int64_t d = plan->problem->head_dim, ldk = ha_cells_ldk(plan);
    const ha_rows rows = {t->rows, ldk, NULL, 0, HYPERATTN_F32};
    for (int64_t i = 0; i < d; i++) {
        plan->kernels->sum_rows(t->scratch, &rows, t->rows + i, ldk, n, d);
        for (int64_t j = 0; j < d; j++)
            sum[i * d + j] = t->scratch[j] / (float)n;
    }
}

/* The epoch's queries, those that are finite. */
static int64_t sample_queries(const ha_cpu_plan *plan, const ha_detect_thread *t,
                              const ha_key_head *kh, int64_t head, const ha_era *epoch)
{
    int64_t d = plan->problem->head_dim, ldk = ha_cells_ldk(plan), found = 0;
    int64_t step = (epoch->nq + SAMPLES - 1) / SAMPLES;
    ha_rows q = ha_head_rows(&kh->q, head);
    for (int64_t i = 0; i < epoch->nq; i += step) {
        float *row = t->rows + found * ldk;
        q.first = epoch->q0 + i;
        plan->kernels->f32.load_q(row, &q, 1, d);
        found += ha_is_finite_row(row, d);
    }
    return found;
}

/* n rows become their deviations from their mean. */
static void centre(const ha_cpu_plan *plan, float *row, int64_t n)
{
    int64_t d = plan->problem->head_dim, ld = ha_cells_ldk(plan);
    for (int64_t c = 0; c < d; c++) {
        float mean = 0;
        for (int64_t j = 0; j < n; j++)
            mean += row[j * ld + c];
        mean /= (float)n;
        for (int64_t j = 0; j < n; j++)
            row[j * ld + c] -= mean;
    }
}

/* Deviations of keys from the mean of their cell, of cells that all rows of the epoch see, without
 * sinks. */
static int64_t sample_keys(const ha_cpu_plan *plan, const ha_detect_thread *t,
                           const ha_key_head *kh, const ha_order *order, const ha_era *epoch,
                           const ha_recipe *r)
{
    int64_t ldk = ha_cells_ldk(plan), found = 0;
    int64_t cells = epoch->seen / r->cell, step = ha_max(1, cells * r->cell / SAMPLES);
    for (int64_t x = 0; x < cells && found + r->cell <= SAMPLES; x += step) {
        const uint32_t *keys = ha_past_keys(order, epoch, x * r->cell);
        uint32_t index[HA_SHORT_STRETCH];
        int64_t n = 0;
        for (int64_t j = 0; j < r->cell; j++)
            if ((int64_t)keys[j] >= r->sinks)
                index[n++] = keys[j];
        ha_rows k = kh->k;
        k.index = index;
        plan->kernels->f32.load_q(t->rows + found * ldk, &k, n, plan->problem->head_dim);
        centre(plan, t->rows + found * ldk, n);
        found += n;
    }
    return found;
}

/* Packs the directions, one a row. */
static void pack_directions(const ha_cpu_plan *plan, const ha_detect_thread *t, float *packed,
                            const float *basis)
{
    int64_t d = plan->problem->head_dim, ldk = ha_cells_ldk(plan);
    for (int64_t j = 0; j < HA_BASIS; j++)
        for (int64_t c = 0; c < d; c++)
            t->rows[j * ldk + c] = basis[c * HA_BASIS + j];
    const ha_rows rows = {t->rows, ldk, NULL, 0, HYPERATTN_F32};
    plan->kernels->f32.pack_k(packed, &rows, HA_BASIS, d);
}

void ha_detector_begin(const ha_cpu_plan *plan, const ha_detectors *d, int thread,
                       ha_epoch_basis *directions, const ha_key_head *kh, int64_t head,
                       const ha_order *order, const ha_era *epoch)
{
    const hyperattn_problem *p = plan->problem;
    ha_detect_thread *t = &d->threads[thread];
    const ha_recipe r = ha_recipe_for(plan, kh->layout);
    float scale = p->softmax_scale * HA_LOG2E;
    directions->usable = 0;
    int64_t n = sample_queries(plan, t, kh, head, epoch);
    if (!n)
        return;
    moments(plan, t, t->c, n);
    n = sample_keys(plan, t, kh, order, epoch, &r);
    if (!n)
        return;
    moments(plan, t, t->m, n);
    if (!ha_basis_find(&t->basis, t->c, t->m, p->head_dim, t->scratch))
        return;
    pack_directions(plan, t, directions->packed[0], t->basis.query);
    pack_directions(plan, t, directions->packed[1], t->basis.key);
    directions->factor = HA_CODE_LARGEST / (SPAN * sqrtf(t->basis.strongest));
    directions->left = fabsf(scale) * sqrtf(t->basis.left);
    directions->size = t->basis.size;
    directions->usable = directions->factor > 0 && isfinite(directions->factor) &&
                         scale != 0 && isfinite(directions->left);
}

/* ---- codes ----------------------------------------------------------------------------------- */

/* Number i of key x in its block. */
static uint8_t *code_at(uint8_t *block, int64_t x, int64_t i)
{
    return block + (i / 2 * HA_CODE_KEYS + x) * 2 + i % 2;
}

void ha_detector_open(const ha_cpu_plan *plan, const ha_detector *det, const ha_cells *cells,
                      int64_t first, int64_t n)
{
    const ha_arith *f32 = &plan->kernels->f32;
    int64_t dim = plan->problem->head_dim, set = first / HA_CODE_KEYS;
    const ha_rows keys = {cells->key, ha_cells_ldk(plan), NULL, first, HYPERATTN_F32};
    f32->pack_k(det->columns + ha_k_bytes(f32, first, dim) / sizeof(float), &keys, n, dim);
    memset(det->boxes + set * 2 * HA_CODE_BLOCK, 0,
           (size_t)((n + HA_CODE_KEYS - 1) / HA_CODE_KEYS * 2 * HA_CODE_BLOCK));
}

/* A cell's keys become codes, and low and high their box. */
static void set_codes(uint8_t *codes, uint8_t low[HA_CODE], uint8_t high[HA_CODE],
                      const float *projection, int64_t ldp, int64_t n, const float *centre,
                      float factor)
{
    memset(low, UINT8_MAX, HA_CODE);
    memset(high, 0, HA_CODE);
    for (int64_t j = 0; j < n; j++) {
        uint8_t *block = codes + j / HA_CODE_KEYS * HA_CODE_BLOCK;
        for (int64_t i = 0; i < HA_CODE; i++) {
            float apart = factor * (projection[j * ldp + i] - centre[i]);
            uint8_t code = (uint8_t)(ha_code_of(apart) + HA_CODE_MIDDLE);
            low[i] = code < low[i] ? code : low[i];
            high[i] = code > high[i] ? code : high[i];
            *code_at(block, j % HA_CODE_KEYS, i) = code;
        }
    }
}

/* The box of cell x of a set: three quarters as wide as its codes are apart. Hardly a key is at the
 * edges in all directions, and half as many cells are scanned. */
static void set_box(uint8_t *box, int64_t x, const uint8_t low[HA_CODE],
                    const uint8_t high[HA_CODE])
{
    for (int64_t i = 0; i < HA_CODE; i++) {
        int middle = (low[i] + high[i]) / 2;
        *code_at(box, x, i) = (uint8_t)middle;
        *code_at(box + HA_CODE_BLOCK, x, i) = (uint8_t)((3 * (high[i] - middle) + 3) / 4);
    }
}

void ha_detector_encode(const ha_cpu_plan *plan, const ha_detectors *d, int thread,
                        const ha_detector *det, const ha_epoch_basis *directions,
                        const ha_key_head *kh, const ha_cells *cells, const ha_cell *cell)
{
    const ha_kernels *kernels = plan->kernels;
    const ha_recipe r = ha_recipe_for(plan, kh->layout);
    ha_detect_thread *t = &d->threads[thread];
    int64_t dim = plan->problem->head_dim, ldk = ha_cells_ldk(plan);
    int64_t ldp = ha_round_up(HA_BASIS, kernels->f32.lanes), blocks = ha_code_blocks(&r);
    float *column = t->centre + kernels->f32.mr * ldp;
    uint8_t *codes = det->codes + cell->number * blocks * HA_CODE_BLOCK;
    uint8_t *box = det->boxes + cell->number / HA_CODE_KEYS * 2 * HA_CODE_BLOCK;
    uint8_t low[HA_CODE], high[HA_CODE];
    ha_rows k = kh->k;
    k.index = cell->keys;
    kernels->f32.load_q(t->rows, &k, cell->n, dim);
    memcpy(column, cells->key + cell->number * ldk, (size_t)ldk * sizeof *column);
    kernels->project(t->projection, ldp, t->rows, ldk, directions->packed[1], cell->n, dim,
                     HA_BASIS);
    kernels->project(t->centre, ldp, column, ldk, directions->packed[1], 1, dim, HA_BASIS);
    memset(codes, 0, (size_t)(blocks * HA_CODE_BLOCK));
    set_codes(codes, low, high, t->projection, ldp, cell->n, t->centre, directions->factor);
    set_box(box, cell->number % HA_CODE_KEYS, low, high);
}
