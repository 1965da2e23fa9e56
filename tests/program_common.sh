# shellcheck shell=sh
# SPDX-License-Identifier: Apache-2.0
#
# What the tests of the hyperattn program share, read by each: the program, a folder to work in, and
# functions. Files are made with printf, so nothing else is needed.
#
#   HYPERATTN_PROGRAM   the program; default $top_builddir/bench/hyperattn
set -eu
program=${HYPERATTN_PROGRAM:-${top_builddir:?}/bench/hyperattn}
case $program in
/*) ;;
*) program=$PWD/$program ;;
esac
if [ ! -x "$program" ]; then
    echo "$program was not built"
    exit 77
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
failed=0

fail() {
    echo "FAILED: $*"
    failed=1
}

# run STATUS ARGUMENT...: the program must end with that status; its output is left in out and err.
run() {
    expected=$1
    shift
    status=0
    ${EMULATOR-} "$program" "$@" >out 2>err || status=$?
    if [ "$status" -ne "$expected" ]; then
        fail "hyperattn $*: status $status, not $expected"
        cat err
    fi
}

# says FILE TEXT: FILE, one of those that run left, holds the text.
says() {
    grep -qF -e "$2" "$1" || { fail "no '$2' in:"; cat "$1"; }
}

# No output under any name: neither the file nor a temporary one beside it.
no_output() {
    for file in "$1"*; do
        if [ -e "$file" ]; then
            fail "$file was left behind"
            rm -f "$file"
        fi
    done
}

# column FILE NAME: of the rows after the head
column() {
    awk -F, -v name="$2" 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == name) c = i }
                          NR > 1 { print $c }' "$1"
}

# rows_of METHOD FILE: of the CSV of compare, left in METHOD.csv
rows_of() {
    awk -F, -v method="$1" 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == "method") c = i }
                            NR == 1 || $c == method' "$2" >"$1.csv"
}

# within FILE NAME LOW HIGH: every figure of a column
within() {
    column "$1" "$2" | awk -v low="$3" -v high="$4" '
        $1 == "" || $1 < low || $1 > high { bad = 1 } END { exit bad || NR == 0 }' ||
        fail "$1: $2 is not within $3 and $4: $(column "$1" "$2" | tr '\n' ' ')"
}

# refuses_option ARGUMENT...: status 2, a message and no output
refuses_option() {
    run 2 "$@"
    says err 'hyperattn'
    no_output bad.npy
}

# The last word of each test.
finish() {
    [ $failed -eq 0 ] && echo "$1"
    exit $failed
}

# ---- .npy files -----------------------------------------------------------------------------------

case $(printf '\001\000' | od -An -td2 | tr -d ' ') in
1) order='<' f32_one='\000\000\200\077' bf16_one='\200\077' f16_one='\000\074' ;;
*) order='>' f32_one='\077\200\000\000' bf16_one='\077\200' f16_one='\074\000' ;;
esac

# npy FILE TYPE FORTRAN SHAPE: a version 1.0 header; data is appended by the caller.
npy() {
    header="{'descr': '$2', 'fortran_order': $3, 'shape': $4, }"
    low=$(printf '%03o' $((${#header} % 256)))
    high=$(printf '%03o' $((${#header} / 256)))
    printf "\223NUMPY\001\000\\$low\\$high%s" "$header" >"$1"
}

# repeat COUNT BYTES
repeat() {
    awk -v n="$1" 'BEGIN { for (i = 0; i < n; i++) print "" }' | while read -r _; do
        # shellcheck disable=SC2059
        printf "$2"
    done
}

# tensor FILE TYPE SHAPE COUNT BYTES: every element is the same
tensor() {
    npy "$1" "$2" False "$3"
    repeat "$4" "$5" >>"$1"
}

# The data of a .npy file of the program: what follows the first newline.
data_of() {
    LC_ALL=C sed '1d' "$1" | od -An "$2" -v | tr -s ' ' '\n' | sed '/^$/d' | LC_ALL=C sort -u
}

# Zero queries and keys weigh all values alike, so a value of 1 everywhere gives 1, and the
# log-sum-exp is ln(keys).
tensor q.npy "${order}f4" '(4, 8, 4)' 128 '\000\000\000\000'
tensor k.npy "${order}f4" '(2, 16, 4)' 128 '\000\000\000\000'
tensor v.npy "${order}f4" '(2, 16, 3)' 96 "$f32_one"
tensor dout.npy "${order}f4" '(4, 8, 3)' 96 "$f32_one"
tensor q2.npy "${order}f2" '(8, 4)' 32 '\000\000'
tensor v2.npy "${order}f2" '(8, 3)' 24 "$f16_one"
tensor q4.npy "${order}u2" '(2, 1, 8, 4)' 64 '\000\000'
tensor v4.npy "${order}u2" '(2, 1, 8, 3)' 48 "$bf16_one"
