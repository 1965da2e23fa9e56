#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The shared library exports the functions of lib/libhyperattn.sym and nothing else, and these are
# the functions that the header declares.
set -eu
: "${top_srcdir:?}" "${top_builddir:?}" "${NM:?}"

list=$top_srcdir/lib/libhyperattn.sym
header=$top_srcdir/include/hyperattn.h
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

dlname=$(sed -n "s/^dlname='\(.*\)'/\1/p" "$top_builddir/lib/libhyperattn.la")
if [ -z "$dlname" ]; then
    echo "this build has no shared library"
    exit 77
fi

LC_ALL=C sort "$list" >"$work/list"
"$NM" -D --defined-only "$top_builddir/lib/.libs/$dlname" | awk '{ print $NF }' |
    LC_ALL=C sort >"$work/library"

# A declaration is a statement that starts with HYPERATTN_API; its name is what precedes "(".
sed 's,/\*.*\*/,,; /^#/d' "$header" | tr '\n' ' ' | tr ';' '\n' |
    sed -n 's/.*HYPERATTN_API .*\(hyperattn_[a-z0-9_]*\)(.*/\1/p' | LC_ALL=C sort >"$work/header"

failed=0
for where in library header; do
    if ! diff -u "$work/list" "$work/$where"; then
        echo "lib/libhyperattn.sym (-) and the functions of the $where (+) differ"
        failed=1
    fi
done
echo "$(wc -l <"$work/list") functions"
exit $failed
