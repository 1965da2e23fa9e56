#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Code for one instruction-set level stays in that level's objects, so that a processor without it
# never runs it. Two ways to leak are looked for:
#   - an object outside the level libraries holds AVX code (any VEX or EVEX instruction), or on
#     AArch64, where the base has SIMD, one outside neonbf16's holds bf16 instructions;
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
# Names of the objects that may hold the instructions, and how those begin, as no other mnemonic
# that the compiler emits.
bf16=__ARM_FEATURE_BF16_VECTOR_ARITHMETIC
case $(echo __x86_64__ __AVX__ __aarch64__ $bf16 | $CC $CFLAGS -E -P -x c -) in
"1 __AVX__ "*)
    objects=libha_avx what=AVX instructions=v ;;
*"1 $bf16")
    objects=libha_neonbf16 what=bf16 instructions='bf(dot|mmla|mlal|cvt)' ;;
*)
    echo "neither x86-64 nor AArch64, or the compiler's flags put a level's instructions everywhere"
    exit 77 ;;
esac

failed=0
levels=
for library in "$libs"/libha_*.a; do
    [ -f "$library" ] || continue
    level=${library##*/libha_}
    level=${level%.a}
    levels="$levels $level"
    symbols=$("$NM" --defined-only --extern-only "$library" | awk 'NF == 3 { print $3 }')
    if [ "$symbols" != "ha_kernels_$level" ]; then
        echo "$level: defines, beside ha_kernels_$level:" $symbols
        failed=1
    fi
done

# Prints "object: instruction" for the first such instruction of each object of libha.a that may
# hold none.
"$OBJDUMP" -d --no-show-raw-insn "$libs/libha.a" | awk -v own="^$objects" \
    -v leak="^ *[0-9a-f]+:\t$instructions" '
    / file format / { object = $1; level = (object ~ own); objects += !level }
    !level && $0 ~ leak && !(object in seen) { seen[object] = 1; print object $0 }
    END { print objects > "/dev/stderr" }' >"$work/leaks" 2>"$work/count"
if [ -s "$work/leaks" ]; then
    echo "$what code outside the libraries of its levels:"
    cat "$work/leaks"
    failed=1
fi
if [ "$(cat "$work/count")" -lt 2 ]; then
    echo "found no baseline objects in $libs/libha.a"
    failed=1
fi
echo "levels:${levels:- none}; $(cat "$work/count") baseline objects"
exit $failed
