#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# On an emulated x86-64 processor without AVX (Nehalem, of 2008), where any later instruction is a
# SIGILL:
#   - the program starts, takes the better portable level, and says why if one above was asked for;
#   - exact attention and HyperAttention at each portable level give the bits that it gives outside
#     of the emulator, where the other tests compare it with double precision;
#   - their kernels pass their own tests, but for attend and backward, which the runs above use;
#   - the shared library loads and works, and the fuzzing corpus agrees with double precision.
# shellcheck disable=SC2086  # compilers, flags and emulators are several words
set -eu
: "${top_srcdir:?}" "${top_builddir:?}" "${CC:?}" "${LIBTOOL:?}"

skip() {
    echo "$*"
    exit 77
}

emulator=$(command -v qemu-x86_64-static || command -v qemu-x86_64) ||
    skip "qemu-x86_64 and qemu-x86_64-static are not installed"
[ -z "$EMULATOR" ] || skip "these programs are not for the machine that builds"
[ -z "$SANITIZER" ] || skip "sanitizers do not run under an emulator"
echo '__AVX__ __x86_64__' | $CC $CFLAGS -E -P -x c - | grep -q '__AVX__ 1' ||
    skip "not x86-64, or the compiler's flags put AVX everywhere"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
    echo "FAILED: $*"
    exit 1
}

nehalem() {
    $LIBTOOL --silent --mode=execute "$emulator" -cpu Nehalem "$@"
}

# The same, outside of the emulator: OpenBLAS's and the C library's choice of code.
outside() {
    OPENBLAS_CORETYPE=Nehalem \
        GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4 \
        $LIBTOOL --silent --mode=execute "$@"
}

unset HYPERATTN_CPU
nehalem ./fuzz_forward >"$work/fuzz" || fail "fuzz_forward ends with status $?"
if [ -x mxcsr ]; then
    nehalem ./mxcsr || fail "mxcsr ends with status $?"
fi

# generic is left out of a build whose compiler has no vector extensions, or by configure.
levels=ref
if [ -f "$top_builddir/lib/.libs/libha_generic.a" ]; then
    levels="ref generic"
fi
best=${levels##* }
for level in $levels; do
    nehalem ./checkkern --level="$level" --function='[!ab]*' >"$work/kernels" ||
        fail "checkkern --level=$level ends with status $?: $(tail -n 5 "$work/kernels")"
    tail -n 1 "$work/kernels"
done

program=$top_builddir/bench/hyperattn
[ -x "$program" ] || skip "the tests passed, but $program was not built"

# ---- the level -----------------------------------------------------------------------------------

nehalem "$program" info >"$work/info" || fail "hyperattn info ends with status $?"
cat "$work/info"
grep -qx "available  $levels" "$work/info" || fail "other levels than $levels are available"
grep -qE "^level      $best( |$)" "$work/info" || fail "the level is not $best"
HYPERATTN_CPU=avx2
export HYPERATTN_CPU
nehalem "$program" info >"$work/info" ||
    fail "with HYPERATTN_CPU=avx2, hyperattn info ends with status $?"
grep -q "^level      $best (.*build or processor lacks" "$work/info" ||
    fail "no reason why the level is not avx2: $(grep '^level' "$work/info")"

# ---- the same bits -------------------------------------------------------------------------------

# tensor FILE TYPE COLUMNS: 300 rows made of the captured sample's bytes, whatever their type was.
# As bfloat16 they are what was captured; two of them make a float of the size of the second.
tensor() {
    header="{'descr': '<$2', 'fortran_order': False, 'shape': (300, $3), }"
    {
        # shellcheck disable=SC2059
        printf "\223NUMPY\001\000\\$(printf '%03o' ${#header})\000%s" "$header"
        tail -c +129 "$top_srcdir/bench/data/$1.npy" | head -c 38400
    } >"$work/$1.npy"
}

# same METHOD OPTION...
same() {
    set -- run --dtype "$dtype" --q "$work/q.npy" --k "$work/k.npy" --v "$work/v.npy" --method "$@"
    nehalem "$program" "$@" --out "$work/out" --lse "$work/lse" ||
        fail "$* ends with status $?"
    outside "$program" "$@" --out "$work/out.outside" --lse "$work/lse.outside" ||
        fail "outside of the emulator, $* ends with status $?"
    for result in out lse; do
        cmp "$work/$result" "$work/$result.outside" ||
            fail "another $result at level $HYPERATTN_CPU: hyperattn $*"
    done
    rm -f "$work/out" "$work/lse"
    runs=$((runs + 1))
}

runs=0
for dtype in f32 bf16 f16; do
    case $dtype in
    f32) type=f4 columns=32 ;;
    bf16) type=u2 columns=64 ;;
    f16) type=f2 columns=64 ;;
    esac
    for name in q k v; do
        tensor $name $type $columns
    done
    for HYPERATTN_CPU in $levels; do
        for causal in '' --causal; do
            same exact $causal
            same hyper --block 32 --sample 32 --leaf 64 $causal
        done
    done
done
echo "$runs runs have the bits that the same level has outside of the emulator"
