/* SPDX-License-Identifier: Apache-2.0
 *
 * What the parts of checkkern share. A part holds kernel tests, functions that call kern_try() once
 * for each shape; checkkern.c runs them at every level and counts.
 */
#ifndef KERN_H
#define KERN_H

#include "kernels.h"
#include "testutil.h"

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

/* One kernel at one level. */
typedef struct kern_run {
    const ha_kernels *table;
    const ha_arith *arith; /* f32 where the kernel belongs to no arithmetic */
    const char *function, *level;
    uint64_t seed;
    int all; /* every bit pattern of exp2 */
} kern_run;

/* The dtype that the arithmetic multiplies. */
static inline hyperattn_dtype kern_own_dtype(const kern_run *run)
{
    return run->arith->pair == 2 ? HYPERATTN_BF16 : HYPERATTN_F32;
}

/* Verifies one shape; returns NULL or what is wrong. The random numbers depend on the seed and the
 * case's name only, so all levels see the same. */
typedef const char *kern_case(const kern_run *run, rng *r, const void *shape);

/* Runs a case, named by the format, and counts it. A crash fails the case and no more. */
void kern_try(const kern_run *run, kern_case *verify, const void *shape, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* ---- comparing ------------------------------------------------------------------------------- */

/* The worst of many comparisons; starts as {0}. */
typedef struct kern_worst {
    double ratio; /* of error to bound; above 1 is wrong */
    int64_t wrong;
    char text[256];
} kern_worst;

/* NaN matches NaN only, and Inf the same Inf. */
void kern_near(kern_worst *w, const char *what, int64_t i, int64_t j, double expected, double got,
               double bound);
/* A bit pattern of that many hexadecimal digits. */
void kern_same_bits(kern_worst *w, const char *what, int64_t i, int64_t j, uint32_t expected,
                    uint32_t got, int digits);
/* NULL, or the worst with the number of wrong ones. */
const char *kern_verdict(const kern_worst *w);

/* ---- inputs ---------------------------------------------------------------------------------- */

#define KERN_DIMS 14
extern const int kern_dims[KERN_DIMS];

const char *kern_placement(placement at);
uint32_t kern_bits(float x);
float kern_float(uint32_t bits);

/* n f32 in guarded memory, signalling NaNs at first. */
guarded kern_floats(int64_t n, placement at);

/* ---- the parts ------------------------------------------------------------------------------- */

void kern_load_q(const kern_run *run);
void kern_pack_k(const kern_run *run);
void kern_pack_v(const kern_run *run);
void kern_store_rows(const kern_run *run);
void kern_dot_rows(const kern_run *run);
void kern_score_rows(const kern_run *run);
void kern_sum_rows(const kern_run *run);
void kern_log_sum_exp(const kern_run *run);
void kern_scan_codes(const kern_run *run);
void kern_attend_shapes(const kern_run *run);
void kern_attend_masks(const kern_run *run);
void kern_attend_chains(const kern_run *run);
void kern_attend_odd(const kern_run *run);
void kern_attend_mixed(const kern_run *run);
void kern_grad_shapes(const kern_run *run);
void kern_grad_masks(const kern_run *run);
void kern_grad_odd(const kern_run *run);
void kern_grad_mixed(const kern_run *run);
void kern_in_place(const kern_run *run);
void kern_hash(const kern_run *run);
void kern_project(const kern_run *run);
void kern_exp2(const kern_run *run);
void kern_peak(const kern_run *run);

/* Prints the speed of every kernel of a table. */
void kern_bench(const ha_kernels *table, const char *level);
/* And of the one whose data lies in memory. */
void kern_bench_memory(const ha_kernels *table);

#endif
