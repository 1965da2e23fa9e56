#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# What the manual pages show is true C: each SYNOPSIS repeats the header's declarations, and each
# complete program compiles without a warning, links the library and exits with 0.
# shellcheck disable=SC2086  # compilers and flags are several words
set -eu
: "${top_srcdir:?}" "${top_builddir:?}" "${CC:?}" "${LIBTOOL:?}"

man=$top_srcdir/man
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# -O1, after the user's level: gcc 12 for aarch64 crashes on one of the programs at -O2.
flags="-O1 -Wall -Wextra -Werror -I$top_srcdir/include"
failed=0
programs=0

for page in "$man"/*.3; do
    name=${page##*/}
    {
        echo '#include <hyperattn.h>'
        awk -f "$top_srcdir/tests/synopsis.awk" "$page"
    } >"$work/synopsis.c"
    if ! $CC $CFLAGS $flags -c -o "$work/synopsis.o" "$work/synopsis.c"; then
        echo "$name: the SYNOPSIS does not agree with the header"
        failed=1
    fi
    awk -v prefix="$work/${name%.3}-" -f "$top_srcdir/tests/examples.awk" "$page" >"$work/sources"
    while read -r source; do
        programs=$((programs + 1))
        program=${source%.c}
        if ! $LIBTOOL --silent --mode=link --tag=CC $CC $CFLAGS $flags -no-install \
            -o "$program" "$source" "$top_builddir/lib/libhyperattn.la" -lm; then
            echo "$name: an example does not compile"
            failed=1
        elif ! $LIBTOOL --silent --mode=execute $EMULATOR "$program" >"$work/output" 2>&1 \
            </dev/null; then
            echo "$name: an example fails; its output:"
            cat "$work/output"
            failed=1
        fi
    done <"$work/sources"
done
echo "$programs programs"
[ $programs -gt 0 ] || failed=1
exit $failed
