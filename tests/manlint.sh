#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# mandoc finds nothing to say about the manual pages; each public function has a page, and is in
# its SYNOPSIS; each page a function or a .Xr of ours points to exists.
set -eu
: "${top_srcdir:?}" "${MANDOC:?}"

man=$top_srcdir/man
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

LC_ALL=C sort "$top_srcdir/lib/libhyperattn.sym" >"$work/functions"
for page in "$man"/*.3; do
    sed -n '/^\.Sh NAME/,/^\.Sh [^N]/s/^\.Nm \([a-z0-9_]*\).*/\1/p' "$page"
done | LC_ALL=C sort >"$work/named"
for page in "$man"/*.3; do
    sed -n '/^\.Sh SYNOPSIS/,/^\.Sh [^S]/s/^\.F[no] \([a-z0-9_]*\).*/\1/p' "$page"
done | LC_ALL=C sort >"$work/declared"

for where in named declared; do
    if ! grep -vx hyperattn "$work/$where" | diff -u "$work/functions" -; then
        echo "public functions (-) and the functions $where in man/*.3 (+) differ"
        failed=1
    fi
done

for page in "$man"/*.[137]; do
    sed -n 's/^\.Xr \([a-z0-9_]*hyperattn[a-z0-9_]*\) \([137]\).*/\1.\2/p' "$page" >"$work/targets"
    while read -r target; do
        if [ ! -f "$man/$target" ] && ! grep -qx "${target%.*}" "$work/named"; then
            echo "${page##*/} refers to $target, which does not exist"
            failed=1
        fi
    done <"$work/targets"
done

if [ "$MANDOC" = : ]; then
    echo "mandoc is not installed: layout not checked"
    [ $failed -ne 0 ] || failed=77
elif ! "$MANDOC" -T lint -W warning "$man"/*.[137]; then
    failed=1
fi
exit $failed
