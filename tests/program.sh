#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# hyperattn info and run as their users call them: results, files, messages and exit statuses.
# shellcheck source=tests/program_common.sh
. "${top_srcdir:?}/tests/program_common.sh"

# ---- info -----------------------------------------------------------------------------------------

run 0 --version
says out 'hyperattn '
run 0 --help
says out 'compare'
for command in info run compare sweep; do
    run 0 "$command" --help
    says out "Usage: hyperattn $command"
done
run 0 info
says out 'available  ref'
run 0 info --json
says out '"levels"'
HYPERATTN_CPU=ref
export HYPERATTN_CPU
run 0 info --json
says out '"level": "ref"'
says out '"HYPERATTN_CPU": "ref"'
unset HYPERATTN_CPU

# ---- run ------------------------------------------------------------------------------------------

for method in exact hyper auto; do
    run 0 run --q q.npy --k k.npy --v v.npy --out o.npy --lse l.npy --method "$method"
    says o.npy "'shape': (4, 8, 3)"
    says l.npy "'shape': (4, 8)"
    [ "$(data_of o.npy -tf4)" = 1 ] || fail "$method: an output is not 1"
    case $(data_of l.npy -tf4) in
    2.77258[89]*) ;;
    *) fail "$method: lse is $(data_of l.npy -tf4), not ln 16" ;;
    esac
done
run 0 run --q q.npy --k k.npy --v v.npy --out o.npy --method hyper --paper --causal --leaf 2 \
    --block 2 --sample 2 --seed 18446744073709551615 --sampling vnorm --heavy none --threads 2
[ "$(data_of o.npy -tf4)" = 1 ] || fail "causal: an output is not 1"

# Two and four dimensions; the type of the output is that of the input.
run 0 run --q q2.npy --k q2.npy --v v2.npy --out o2.npy --lse l2.npy
says o2.npy "'descr': '${order}f2'"
says o2.npy "'shape': (8, 3)"
says l2.npy "'shape': (8,)"
[ "$(data_of o2.npy -tx2)" = 3c00 ] || fail "f16: an output is not 1"
run 0 run --q q4.npy --k q4.npy --v v4.npy --out o4.npy --dtype bf16
says o4.npy "'descr': '${order}u2'"
says o4.npy "'shape': (2, 1, 8, 3)"
[ "$(data_of o4.npy -tx2)" = 3f80 ] || fail "bf16: an output is not 1"

# ---- run --dout -----------------------------------------------------------------------------------

# near FILE NUMBER...: the f32 data of FILE, in order
near() {
    file=$1
    shift
    LC_ALL=C sed '1d' "$file" | od -An -tf4 -v | awk -v wanted="$*" '
        BEGIN { count = split(wanted, w, " ") }
        { for (i = 1; i <= NF; i++) { n++; if (!($i - w[n] < 1e-6 && w[n] - $i < 1e-6)) bad = 1 } }
        END { exit bad || n != count }' ||
        fail "$file is not $*: $(LC_ALL=C sed '1d' "$file" | od -An -tf4 -v)"
}

# sum_of FILE NUMBER: of its f32 data
sum_of() {
    LC_ALL=C sed '1d' "$1" | od -An -tf4 -v | awk -v wanted="$2" '
        { for (i = 1; i <= NF; i++) sum += $i }
        END { exit !(sum - wanted < 1e-4 && wanted - sum < 1e-4) }' || fail "$1 does not sum to $2"
}

# By hand: q = (1, 0) weighs k = (0, 0) and (0, 1) alike, so that with v = 0 and 1 the output is 1/2,
# P = (1/2, 1/2), and for dout = 1 P (v - out) is -1/4 and 1/4.
f32_zero='\000\000\000\000'
npy q1.npy "${order}f4" False '(1, 2)'
repeat 1 "$f32_one$f32_zero" >>q1.npy
npy k1.npy "${order}f4" False '(2, 2)'
repeat 1 "$f32_zero$f32_zero$f32_zero$f32_one" >>k1.npy
npy v1.npy "${order}f4" False '(2, 1)'
repeat 1 "$f32_zero$f32_one" >>v1.npy
tensor dout1.npy "${order}f4" '(1, 1)' 1 "$f32_one"
for method in exact hyper auto; do
    run 0 run --q q1.npy --k k1.npy --v v1.npy --scale 1 --dout dout1.npy --method $method \
        --out o1.npy --lse l1.npy --dq dq1.npy --dk dk1.npy --dv dv1.npy
    near o1.npy 0.5
    near l1.npy 0.693147181
    near dq1.npy 0 0.25
    near dk1.npy -0.25 0 0.25 0
    near dv1.npy 0.5 0.5
    says dq1.npy "'shape': (1, 2)"
    says dk1.npy "'shape': (2, 2)"
    says dv1.npy "'shape': (2, 1)"
done
run 0 run --q q1.npy --k k1.npy --v v1.npy --scale 2 --dout dout1.npy --dk dk1.npy
near dk1.npy -0.5 0 0.5 0

# The same in bf16 and f16; one gradient alone, and no output.
for type in bf16 f16; do
    case $type in
    bf16) code=u2 one=$bf16_one half=3f00 ;;
    f16) code=f2 one=$f16_one half=3800 ;;
    esac
    npy qh.npy "$order$code" False '(1, 2)'
    repeat 1 "$one\000\000" >>qh.npy
    npy kh.npy "$order$code" False '(2, 2)'
    repeat 1 "\000\000\000\000\000\000$one" >>kh.npy
    npy vh.npy "$order$code" False '(2, 1)'
    repeat 1 "\000\000$one" >>vh.npy
    tensor douth.npy "$order$code" '(1, 1)' 1 "$one"
    run 0 run --q qh.npy --k kh.npy --v vh.npy --dtype $type --dout douth.npy --dv dvh.npy
    says dvh.npy "'descr': '$order$code'"
    [ "$(data_of dvh.npy -tx2)" = "$half" ] || fail "$type: dv is not 1/2"
done

# Probabilities of a row sum to 1 with any method, so that dv sums to dout; equal values have no
# gradient by queries and keys. Two query heads read each key head.
for options in '--method exact' '--method exact --causal' '--method hyper --block 2 --sample 2' \
    '--method hyper --causal --leaf 2 --block 2 --sample 2 --sampling vnorm'; do
    # shellcheck disable=SC2086  # several words
    run 0 run --q q.npy --k k.npy --v v.npy --dout dout.npy --dq dq.npy --dk dk.npy --dv dv.npy \
        $options
    says dq.npy "'shape': (4, 8, 4)"
    says dk.npy "'shape': (2, 16, 4)"
    says dv.npy "'shape': (2, 16, 3)"
    sum_of dq.npy 0
    sum_of dk.npy 0
    sum_of dv.npy 96
done
tensor dout4.npy "${order}u2" '(2, 1, 8, 3)' 48 "$bf16_one"
run 0 run --q q4.npy --k q4.npy --v v4.npy --dtype bf16 --dout dout4.npy --dv dv4.npy --dk dk4.npy
says dv4.npy "'shape': (2, 1, 8, 3)"
says dk4.npy "'shape': (2, 1, 8, 4)"
[ "$(data_of dv4.npy -tx2)" = 3f80 ] || fail "bf16: an element of dv is not 1"

# ---- bad files ------------------------------------------------------------------------------------

# refuses FILE TEXT: as q, k and v, FILE ends in status 2, its name and the text, and no output.
refuses() {
    run 2 run --q "$1" --k k.npy --v v.npy --out bad.npy --lse bad.npy.lse
    says err "$1: $2"
    run 2 run --q q.npy --k "$1" --v v.npy --out bad.npy
    says err "$1: $2"
    run 2 compare --q q.npy --k k.npy --v "$1" --csv bad.npy
    says err "$1: $2"
    no_output bad.npy
}

refuses missing.npy 'No such file'
refuses . 'not a regular file'
head -c 200 q.npy >short.npy
refuses short.npy 'truncated'
head -c 40 q.npy >header.npy
refuses header.npy 'truncated'
: >empty.npy
refuses empty.npy 'not a .npy file'
{ cat q.npy && echo; } >long.npy
refuses long.npy 'trailing bytes'
npy fortran.npy "${order}f4" True '(4, 8, 4)'
repeat 128 '\000\000\000\000' >>fortran.npy
refuses fortran.npy 'Fortran order'
tensor object.npy '|O' '(4, 8, 4)' 128 '\200\004N.'
refuses object.npy "dtype '|O' holds pickled objects"
tensor double.npy "${order}f8" '(2, 4, 4)' 64 '\000\000\000\000'
refuses double.npy "dtype '${order}f8', need"
npy huge.npy "${order}f4" False '(4611686018427387904, 4, 4)'
refuses huge.npy "the shape's product exceeds 64 bits"
npy promise.npy "${order}f4" False '(1000000, 1000000, 64)'
refuses promise.npy 'truncated'
tensor zero.npy "${order}f4" '(4, 0, 4)' 0 ''
refuses zero.npy 'dimension 1 of its shape is 0'
tensor flat.npy "${order}f4" '(128,)' 128 '\000\000\000\000'
refuses flat.npy 'has 1 dimensions'
refuses q4.npy 'holds uint16'

# mismatch Q K V TEXT
mismatch() {
    run 2 run --q "$1" --k "$2" --v "$3" --out bad.npy
    says err "$4"
    no_output bad.npy
}

mismatch q2.npy k.npy v.npy 'number of dimensions'
mismatch q.npy k.npy q.npy 'number of heads'
tensor k5.npy "${order}f4" '(2, 16, 5)' 160 '\000\000\000\000'
mismatch q.npy k5.npy v.npy 'last dimension'
tensor v8.npy "${order}f4" '(2, 8, 3)' 48 "$f32_one"
mismatch q.npy k.npy v8.npy 'number of rows'
tensor k3.npy "${order}f4" '(3, 16, 4)' 192 '\000\000\000\000'
tensor v3.npy "${order}f4" '(3, 16, 3)' 144 "$f32_one"
mismatch q.npy k3.npy v3.npy 'no multiple of the 3 heads'
tensor kf16.npy "${order}f2" '(2, 16, 4)' 128 '\000\000'
mismatch q.npy kf16.npy v.npy 'dtype'
run 2 run --q q.npy --k k.npy --v v.npy --out bad.npy --dtype bf16
says err 'holds float32, but --dtype is bf16'
run 2 compare --q q4.npy --k q4.npy --v v4.npy
says err 'say --dtype bf16'
no_output bad.npy

# refuses_dout FILE TEXT: beside q, k and v
refuses_dout() {
    run 2 run --q q.npy --k k.npy --v v.npy --out bad.npy --dout "$1" --dq bad.npy.dq
    says err "$1: $2"
    no_output bad.npy
}

refuses_dout missing.npy 'No such file'
refuses_dout short.npy 'truncated'
refuses_dout double.npy "dtype '${order}f8', need"
refuses_dout q4.npy 'holds uint16'
refuses_dout v2.npy 'its number of dimensions is 2, but that of q.npy is 3'
refuses_dout v.npy 'its number of heads is 2, but that of q.npy is 4'
refuses_dout q.npy 'its last dimension is 4, but that of v.npy is 3'
tensor dout7.npy "${order}f4" '(4, 7, 3)' 84 "$f32_one"
refuses_dout dout7.npy 'its number of rows is 7, but that of q.npy is 8'
tensor doutf16.npy "${order}f2" '(4, 8, 3)' 96 "$f16_one"
refuses_dout doutf16.npy 'its dtype is'
tensor dout1b.npy "${order}u2" '(1, 1, 8, 3)' 24 "$bf16_one"
run 2 run --q q4.npy --k q4.npy --v v4.npy --dtype bf16 --dout dout1b.npy --dq bad.npy
says err 'dout1b.npy: its batch size is 1, but that of q4.npy is 2'
run 2 run --q q.npy --k k.npy --v v.npy --dtype f32 --dout doutf16.npy --dq bad.npy
says err 'holds float16, but --dtype is f32'
no_output bad.npy

finish "info and run do what they say"
