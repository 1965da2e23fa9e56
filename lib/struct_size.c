/* SPDX-License-Identifier: Apache-2.0 */
#include "struct_size.h"

#include <string.h>

#include "status.h"

hyperattn_status ha_struct_read(void *to, const void *from, const ha_struct *kind)
{
    size_t given, i = 0;
    memcpy(&given, from, sizeof given);
    if (given > kind->size)
        return ha_fail(HYPERATTN_EVERSION,
                       "%s.struct_size is %zu, this library knows %zu: its header is older",
                       kind->name, given, kind->size);
    while (i < kind->nfields && kind->field[i] != given)
        i++;
    if (i == kind->nfields && given != kind->size)
        return ha_fail(HYPERATTN_EINVAL, "%s.struct_size is %zu, which ends at no field of it",
                       kind->name, given);
    memcpy(to, from, given);
    memcpy(to, &kind->size, sizeof kind->size);
    return HYPERATTN_OK;
}
