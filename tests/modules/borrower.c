/* SPDX-License-Identifier: Apache-2.0
 *
 * A module that has the function from a library it depends on, and not itself.
 */
int fake_lent(void);
int fake_borrowed(void);

int fake_borrowed(void)
{
    return fake_lent();
}
