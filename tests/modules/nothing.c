/* SPDX-License-Identifier: Apache-2.0
 *
 * A module without the function that every module exports.
 */
int fake_nothing(void);

int fake_nothing(void)
{
    return 0;
}
