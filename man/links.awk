# SPDX-License-Identifier: Apache-2.0
#
# For each name in the NAME section of an mdoc page other than the page's own: "name page".

FNR == 1 { page = FILENAME; sub(".*/", "", page); own = page; sub(/\.[0-9]$/, "", own) }
/^\.Sh / { in_name = ($2 == "NAME") }
in_name && /^\.Nm / && $2 != own { print $2, page }
