#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The hyperattn program as its users call it: results, files, messages and exit statuses. Files are
# made with printf, so nothing else is needed; only gnuplot is looked for.
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
tensor q2.npy "${order}f2" '(8, 4)' 32 '\000\000'
tensor v2.npy "${order}f2" '(8, 3)' 24 "$f16_one"
run 0 run --q q2.npy --k q2.npy --v v2.npy --out o2.npy --lse l2.npy
says o2.npy "'descr': '${order}f2'"
says o2.npy "'shape': (8, 3)"
says l2.npy "'shape': (8,)"
[ "$(data_of o2.npy -tx2)" = 3c00 ] || fail "f16: an output is not 1"
tensor q4.npy "${order}u2" '(2, 1, 8, 4)' 64 '\000\000'
tensor v4.npy "${order}u2" '(2, 1, 8, 3)' 48 "$bf16_one"
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
tensor dout.npy "${order}f4" '(4, 8, 3)' 96 "$f32_one"
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

# ---- outputs --------------------------------------------------------------------------------------

# An output replaces what was there, through a symbolic link too, and a device stays a device.
echo old >old.npy
ln -s old.npy link.npy
run 0 run --q q.npy --k k.npy --v v.npy --out link.npy
[ -h link.npy ] || fail "the link was replaced"
cmp -s link.npy o.npy || run 0 run --q q.npy --k k.npy --v v.npy --out o.npy
cmp old.npy o.npy || fail "old.npy was not replaced"
run 0 run --q q.npy --k k.npy --v v.npy --out /dev/null
[ -c /dev/null ] || fail "/dev/null is no device any more"

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

# ---- bad arguments --------------------------------------------------------------------------------

refuses_option() {
    run 2 "$@"
    says err 'hyperattn'
    no_output bad.npy
}

refuses_option
refuses_option conpare
refuses_option run
refuses_option run --q q.npy --k k.npy --v v.npy
refuses_option run --k k.npy --v v.npy --out bad.npy
refuses_option run --q q.npy --k k.npy --v v.npy --out bad.npy --lse bad.npy
refuses_option run --q q.npy --k k.npy --v v.npy --out bad.npy extra
refuses_option run --q q.npy --k k.npy --v v.npy --out bad.npy --dq bad.npy.dq
says err 'need --dout'
refuses_option run --q q.npy --k k.npy --v v.npy --out bad.npy --dout dout.npy
says err '--dout needs'
refuses_option run --q q.npy --k k.npy --v v.npy --dout dout.npy --dk bad.npy --dv bad.npy
says err '--dv and --dk name the same file'
for option in --method=best --block=0 --block=256x --block= --block=99999999999 --projections=17 \
    --sample=-1 --leaf=0 --scale=nan --scale=x --kappa-cap=-1 --seed=-1 \
    --seed=18446744073709551616 --threads=-1 --dtype=f64 --heavy=all --sampling=2 --nothing; do
    refuses_option run --q q.npy --k k.npy --v v.npy --out bad.npy "$option"
done
refuses_option compare --q q.npy
refuses_option compare --q q.npy --k k.npy --v v.npy --heads 2
refuses_option compare --q q.npy --k k.npy --v v.npy --n 4
refuses_option compare --q q2.npy --k q2.npy --v v2.npy --n 9
for list in 0 8:4 8,4 8,8 x '8,' ',8' 8: -8 99999999999999999999 5000000000 1:4:8; do
    refuses_option sweep --n "$list"
done
refuses_option compare --heads 4 --kv-heads 3
refuses_option compare --repeat 0
refuses_option sweep --methods exact,best
refuses_option sweep --methods exact,baseline --backward
refuses_option sweep --dim 0

# Generated input beyond the memory is refused before anything is allocated.
run 1 compare --n 4000000000 --heads 65536 --dim 4096
says err 'memory available'
run 2 compare --n 4000000000 --heads 65536 --dim 65536
says err 'address space'

# Outputs that cannot be written are noticed, before the work.
run 1 run --q q.npy --k k.npy --v v.npy --out nowhere/bad.npy
says err 'nowhere/bad.npy'
run 1 run --q q.npy --k k.npy --v v.npy --out bad.npy --dout dout.npy --dv nowhere/bad.npy
no_output bad.npy
run 2 sweep --csv .
if [ -c /dev/full ]; then
    run 1 run --q q.npy --k k.npy --v v.npy --out /dev/full
    says err '/dev/full'
    run 1 run --q q.npy --k k.npy --v v.npy --out bad.npy --dout dout.npy --dk /dev/full
    no_output bad.npy
    run 1 compare --n 16 --heads 1 --dim 4 --csv /dev/full
fi

# ---- compare --------------------------------------------------------------------------------------

run 0 compare --n 64:256 --heads 4 --kv-heads 2 --dim 16 --leaf 32 --block 16 --sample 16 --causal \
    --json c.json --csv c.csv --repeat 2
says out 'rel. error'
says out 'Stages'
says c.json '"rel_error"'
says c.json '"causal": true'
[ "$(wc -l <c.csv)" -eq 4 ] || fail "compare: three lengths do not give three rows of CSV"
[ ! -s err ] || { fail "compare is not quiet when piped:"; cat err; }

# column FILE NAME: of the rows after the head
column() {
    awk -F, -v name="$2" 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == name) c = i }
                          NR > 1 { print $c }' "$1"
}

# within FILE NAME LOW HIGH: every figure of a column
within() {
    column "$1" "$2" | awk -v low="$3" -v high="$4" '
        $1 == "" || $1 < low || $1 > high { bad = 1 } END { exit bad || NR == 0 }' ||
        fail "$1: $2 is not within $3 and $4: $(column "$1" "$2" | tr '\n' ' ')"
}

# What the figures mean: keys that are all in one block are exact, others are not.
run 0 compare --n 64 --heads 2 --dim 16 --block 64 --sample 0 --sinks 0 --csv e.csv
within e.csv rel_error 0 1e-5
run 0 compare --n 512 --heads 2 --dim 16 --block 16 --sample 16 --sinks 0 --csv e.csv
within e.csv rel_error 0.01 5
within e.csv max_row_error 0.01 100
for gen in gauss clustered llm; do
    run 0 compare --gen "$gen" --n 100,300 --heads 2 --dim 7 --dtype bf16 --csv e.csv --repeat 1
    within e.csv exact_rel_error 0.00001 0.02
done
run 0 info
if grep -q 'OpenBLAS   not built in' out; then
    refuses_option compare --baseline --n 64
else
    run 0 compare --baseline --causal --n 100 --heads 2 --kv-heads 1 --dim 8 --csv e.csv
    within e.csv baseline_rel_error 0 1e-5
fi

# Files: prefixes, other lengths for queries, conversion to another type.
run 0 compare --q q2.npy --k q2.npy --v v2.npy --n 2:8 --csv e.csv
[ "$(column e.csv n | tr '\n' ' ')" = '2 4 8 ' ] || fail "compare: wrong prefixes"
run 0 compare --q q.npy --k k.npy --v v.npy --causal --dtype bf16 --csv e.csv
[ "$(column e.csv queries)" = 8 ] || fail "compare: wrong number of queries"
within e.csv rel_error 0 0.01
run 0 compare --q q4.npy --k q4.npy --v v4.npy --dtype f32 --json - --csv e.csv
says out '"results"'

# Gradients: exact where all keys are in one block, and rounded in bf16; others differ.
run 0 compare --backward --n 32,64 --heads 2 --kv-heads 1 --dim 16 --block 64 --sample 0 \
    --sinks 0 --csv e.csv --json e.json
says out 'Backward:'
says e.json '"backward": true'
for gradient in dq dk dv; do
    within e.csv ${gradient}_rel_error 0 1e-5
    says e.json "\"${gradient}_rel_error\""
done
within e.csv hyper_backward_seconds 1e-9 100
within e.csv both_speedup 1e-9 1e9
run 0 compare --backward --causal --n 100 --heads 2 --dim 7 --dtype bf16 --csv e.csv --repeat 1
for gradient in dq dk dv; do
    within e.csv exact_${gradient}_rel_error 0.00001 0.05
done
run 0 compare --backward --q q2.npy --k q2.npy --v v2.npy --n 2:8 --dtype f32 --csv e.csv
within e.csv dv_rel_error 0 1e-5
run 0 compare --backward --q q.npy --k k.npy --v v.npy --causal --csv e.csv
within e.csv dv_rel_error 0 1e-5

# The same seed gives the same input and the same result, whatever the threads.
for threads in 1 3; do
    run 0 compare --gen llm --n 300 --heads 2 --dim 16 --block 16 --sample 16 --causal --leaf 32 \
        --threads $threads --csv t$threads.csv --repeat 1 --backward
done
for figure in rel_error dq_rel_error dk_rel_error dv_rel_error; do
    within t1.csv $figure 0.01 5
    [ "$(column t1.csv $figure)" = "$(column t3.csv $figure)" ] || fail "threads change $figure"
done

# ---- sweep ----------------------------------------------------------------------------------------

run 0 sweep --n 64:256 --heads 2 --dim 16 --leaf 32 --block 16 --sample 16 --peak --csv s.csv \
    --json s.json
[ "$(wc -l <s.csv)" -eq 7 ] || fail "sweep: three lengths, causal and not, do not give six rows"
within s.csv exact_peak_share 0.00001 2
says s.json '"peak": "'
[ ! -s err ] || { fail "sweep is not quiet when piped:"; cat err; }
run 0 sweep --n 64 --heads 2 --dim 16 --no-causal --csv - --methods hyper
[ "$(wc -l <out)" -eq 2 ] || fail "sweep --no-causal --csv -: not one row"

# Backward: both is the sum of forward and backward, and what is compared.
run 0 sweep --backward --n 64:256 --heads 2 --dim 16 --leaf 32 --block 16 --sample 16 --peak \
    --csv s.csv --json s.json
[ "$(wc -l <s.csv)" -eq 7 ] || fail "sweep --backward: not six rows"
[ ! -s err ] || { fail "sweep --backward is not quiet when piped:"; cat err; }
says out 'forward and backward'
says s.json '"backward": true'
says s.json '"exact_backward_seconds"'
within s.csv exact_backward_peak_share 0.00001 2
within s.csv exact_backward_gflops 0.00001 1e6
within s.csv hyper_backward_workspace_ratio 0.01 1e6
within s.csv exact_backward_workspace_ratio 0.01 1e6
awk -F, 'function near(a, b) { return a > 0 && a / b > 0.99999 && a / b < 1.00001 }
    NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i }
    NR > 1 {
        exact = $at["exact_seconds"] + $at["exact_backward_seconds"]
        hyper = $at["hyper_seconds"] + $at["hyper_backward_seconds"]
        if (!near($at["exact_both_seconds"], exact) || !near($at["hyper_both_seconds"], hyper) ||
            !near($at["both_speedup"], exact / hyper))
            bad = 1
        flops = 10 * 2 * $at["n"] * $at["n"] * 16 / ($at["causal"] ? 2 : 1)
        if (!near($at["exact_backward_gflops"], 1e-9 * flops / $at["exact_backward_seconds"]))
            bad = 1
    }
    END { exit bad || NR == 0 }' s.csv || fail "sweep --backward: the figures disagree: $(cat s.csv)"
run 0 sweep --backward --methods hyper --n 64 --heads 2 --kv-heads 1 --dim 7 --dtype bf16 \
    --csv s.csv
[ -z "$(column s.csv exact_backward_seconds | tr -d '\n')" ] || fail "sweep: exact was not wanted"
within s.csv hyper_both_seconds 1e-9 100
run 0 sweep --n 64 --heads 2 --dim 16 --csv s.csv
[ -z "$(column s.csv hyper_backward_seconds | tr -d '\n')" ] || fail "sweep: forward only"

# Exact attention beyond its budget is left out, and what was scaled says so.
run 0 sweep --n 512 --heads 2 --dim 16 --causal --exact-budget 0 --csv s.csv --repeat 1
[ -z "$(column s.csv exact_seconds)" ] || fail "sweep: exact attention without budget"
run 0 sweep --n 512 --heads 2 --dim 16 --causal --exact-budget 0 --csv s.csv --repeat 1 --backward
[ -z "$(column s.csv exact_both_seconds)" ] || fail "sweep: exact backward without budget"
run 0 sweep --n 64 --heads 2 --dim 16 --exact-max-n 32 --csv s.csv
[ -z "$(column s.csv exact_seconds | tr -d '\n')" ] || fail "sweep: exact attention above its n"

# A PATH of our own would hide the emulator, and its speed is not what the budget expects.
if [ -z "${EMULATOR-}" ]; then
    run 0 sweep --n 512 --heads 2048 --dim 8 --no-causal --methods exact --exact-budget 0.05 \
        --csv s.csv --repeat 1
    says out '* one head timed, multiplied by 2048'
    [ "$(column s.csv scaled)" = 1 ] || fail "sweep: a multiplied time is not marked"
    run 0 sweep --n 512 --heads 2048 --dim 8 --no-causal --methods exact --exact-budget 0.15 \
        --csv s.csv --repeat 1 --backward
    [ "$(column s.csv scaled)" = 1 ] || fail "sweep: a multiplied time of backward is not marked"
    within s.csv exact_both_seconds 0.01 1e6
    mkdir none
    saved_path=$PATH
    # shellcheck disable=SC2123  # the search path, on purpose
    PATH=$work/none
    run 1 sweep --n 64 --heads 1 --dim 16 --plot bad.svg
    PATH=$saved_path
    says err 'needs gnuplot'
    no_output bad.svg
fi

if command -v gnuplot >/dev/null && [ -z "${EMULATOR-}" ]; then
    run 0 sweep --n 64:256 --heads 1 --dim 16 --plot s.svg --repeat 1
    says s.svg '</svg>'
    says s.svg 'HyperAttention, causal'
    run 0 sweep --n 64:256 --heads 1 --dim 16 --plot s.svg --repeat 1 --backward
    says s.svg 'forward and backward'
    says s.svg 'HyperAttention, causal'
    mkdir bin
    # shellcheck disable=SC2016  # for the other shell
    printf '#!/bin/sh\n[ "$1" = --version ]\n' >bin/gnuplot
    chmod +x bin/gnuplot
    PATH=$work/bin:$PATH
    run 1 sweep --n 64 --heads 1 --dim 16 --plot bad.svg --repeat 1
    says err 'gnuplot failed'
    no_output bad.svg
fi
[ $failed -eq 0 ] && echo "the program does what it says"
exit $failed
