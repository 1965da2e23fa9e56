#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Code for one instruction-set level stays in that level's objects, so that a processor without it
# never runs it. Two ways to leak are looked for:
#   - an object outside the level libraries holds AVX code (any VEX or EVEX instruction);
#   - a level's object defines a symbol, other than its kernel table, that the linker may choose
#     for callers elsewhere: a plain "inline" function of a header is enough.
# shellcheck disable=SC2086  # compilers and flags are several words
set -eu
: "${top_builddir:?}" "${CC:?}" "${NM:?}" "${OBJDUMP:?}"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
libs=$top_builddir/lib/.libs

if [ -n "$SANITIZER" ]; then
    echo "sanitizers define symbols of their own"
    exit 77
fi
if echo '__AVX__ __x86_64__' | $CC $CFLAGS -E -P -x c - | grep -q '__AVX__ 1'; then
    :
else
    echo "not x86-64, or the compiler's flags put AVX everywhere"
    exit 77
fi

failed=0
levels=
for level in avx2 avx512 avx512bf16; do
    library=$libs/libha_$level.a
    [ -f "$library" ] || continue
    levels="$levels $level"
    symbols=$("$NM" --defined-only --extern-only "$library" | awk 'NF == 3 { print $3 }')
    if [ "$symbols" != "ha_kernels_$level" ]; then
        echo "$level: defines, beside ha_kernels_$level:" $symbols
        failed=1
    fi
done

# Prints "object: instruction" for the first AVX instruction of each object of libha.a that is not
# of a level library. No other x86-64 mnemonic that the compiler emits starts with v.
"$OBJDUMP" -d --no-show-raw-insn "$libs/libha.a" | awk '
    / file format / { object = $1; level = (object ~ /^libha_avx/); objects += !level }
    !level && /^ *[0-9a-f]+:\tv/ && !(object in seen) { seen[object] = 1; print object $0 }
    END { print objects > "/dev/stderr" }' >"$work/leaks" 2>"$work/count"
if [ -s "$work/leaks" ]; then
    echo "AVX code outside the level libraries:"
    cat "$work/leaks"
    failed=1
fi
if [ "$(cat "$work/count")" -lt 2 ]; then
    echo "found no baseline objects in $libs/libha.a"
    failed=1
fi
echo "levels:${levels:- none}; $(cat "$work/count") baseline objects"
exit $failed
