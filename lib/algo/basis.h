/* SPDX-License-Identifier: Apache-2.0
 *
 * A few directions in which products q.x of queries and keys' deviations can be told apart best.
 * With C = E q q' = L L' and M = E x x', the leading eigenvectors u_i of L' M L, of eigenvalue e_i,
 * give
 *     q.x ~ sum_i (q.L^-T u_i) (x.L u_i)
 * and the mean square of what is left out is the sum of the other eigenvalues.
 */
#ifndef HA_ALGO_BASIS_H
#define HA_ALGO_BASIS_H

#include <stdint.h>

#define HA_BASIS 16 /* directions */

/* Most features of a head that has a basis. */
#define HA_BASIS_DIM 256

typedef struct ha_basis {
    float *query, *key; /* [d][HA_BASIS]: both factors have mean square sqrt(e_i) in direction i */
    float strongest;    /* sqrt(e_0), the largest mean square */
    float left;         /* sum of the eigenvalues that are left out */
    float size;         /* of a query's products with all directions: root of their mean squares */
} ha_basis;

/* Floats of scratch that ha_basis_find needs. */
static inline int64_t ha_basis_scratch(int64_t d)
{
    return 3 * d * d + 2 * d * HA_BASIS;
}

/* c and m: [d][d], symmetric, overwritten. Returns 0 where there is no basis: numbers that are not
 * finite, or no deviations at all. */
int ha_basis_find(ha_basis *basis, float *c, float *m, int64_t d, float *scratch);

#endif
