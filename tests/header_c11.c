/* SPDX-License-Identifier: Apache-2.0
 *
 * hyperattn.h comes first, so that it has to compile alone; here as C11.
 */
#include <hyperattn.h>

#include "header_test.h"

int main(void)
{
    return header_test();
}
