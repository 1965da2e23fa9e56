#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# make installcheck: pkg-config finds the installed library, a program and the installed examples
# build with what it says and run, the library carries no search path, and the manual pages and the
# hyperattn program are in place. $destdir is what DESTDIR was at make install.
# shellcheck disable=SC2086  # compilers and flags are several words
set -eu
: "${top_srcdir:?}" "${CC:?}" "${READELF:?}"
: "${libdir:?}" "${docdir:?}" "${mandir:?}" "${pkgconfigdir:?}" "${version:?}"
: "${destdir=}" "${program=}"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
    echo "installcheck: $*" >&2
    exit 1
}

if [ -z "$PKG_CONFIG" ]; then
    fail "pkg-config is needed"
fi
PKG_CONFIG_PATH=$destdir$pkgconfigdir
PKG_CONFIG_SYSROOT_DIR=$destdir
export PKG_CONFIG_PATH PKG_CONFIG_SYSROOT_DIR
[ "$($PKG_CONFIG --modversion libhyperattn)" = "$version" ] || fail "pkg-config: wrong version"
cflags=$($PKG_CONFIG --cflags libhyperattn)
libs=$($PKG_CONFIG --libs libhyperattn)

library=$destdir$libdir/libhyperattn.so
if [ -e "$library" ]; then
    if "$READELF" -d "$library" | grep -E 'R(UN)?PATH'; then
        fail "$library has a search path"
    fi
else
    libs=$($PKG_CONFIG --static --libs libhyperattn)
fi

# The C++ driver and the user's own flags play no part here, only what pkg-config says.
for source in "$top_srcdir/tests/installed.c" "$destdir$docdir/examples/train.c" \
    "$destdir$docdir/examples/choose.c"; do
    $CC ${CFLAGS-} $cflags -o "$work/$(basename "$source" .c)" "$source" $libs -lm ||
        fail "$source does not build with: $cflags $libs"
done
LD_LIBRARY_PATH=$destdir$libdir${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export LD_LIBRARY_PATH
$EMULATOR "$work/installed" || fail "a program does not run"
$EMULATOR "$work/train" --n 256 --steps 2 || fail "an example does not run"
$EMULATOR "$work/choose" 0.1 512 || fail "an example does not run"

while read -r function; do
    page=$destdir$mandir/man3/$function.3
    [ -s "$page" ] || fail "$page is missing"
    target=$(sed -n 's/^\.so //p' "$page")
    [ -z "$target" ] || [ -s "$destdir$mandir/$target" ] || fail "$page points to no page"
done <"$top_srcdir/lib/libhyperattn.sym"
[ -s "$destdir$mandir/man7/libhyperattn.7" ] || fail "libhyperattn.7 is missing"

if [ -n "$program" ]; then
    [ -s "$destdir$mandir/man1/hyperattn.1" ] || fail "hyperattn.1 is missing"
    $EMULATOR "$destdir$program" info >"$work/info" || fail "hyperattn info fails"
    grep -q "$version" "$work/info" || fail "hyperattn info does not print the version"
fi
echo "installcheck: passed"
