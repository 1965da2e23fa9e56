#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# hyperattn compare and sweep: tables, figures and files. Only gnuplot is looked for.
# shellcheck source=tests/program_common.sh
. "${top_srcdir:?}/tests/program_common.sh"

# measure ARGUMENT...: times do not matter, so they are taken once
measure() {
    run 0 "$@" --repeat 1
}

# compared METHOD ARGUMENT...: the rows of a method are left in METHOD.csv
compared() {
    method=$1
    shift
    measure compare "$@" --csv e.csv
    rows_of "$method" e.csv
}

# ---- compare --------------------------------------------------------------------------------------

run 0 compare --n 64:256 --heads 4 --kv-heads 2 --dim 16 --leaf 32 --block 16 --sample 16 --causal \
    --json c.json --csv c.csv --repeat 2
says out 'rel. error'
says out 'Stages'
says c.json '"rel_error"'
says c.json '"causal": true'
[ "$(wc -l <c.csv)" -eq 7 ] || fail "compare: three lengths, two methods: not six rows of CSV"
[ "$(column c.csv method | tr '\n' ' ')" = 'exact hyper exact hyper exact hyper ' ] ||
    fail "compare: the methods are $(column c.csv method)"
rows_of exact c.csv
[ -z "$(column exact.csv rel_error | tr -d '\n')" ] || fail "compare: the reference has an error"
within exact.csv speedup 1 1
[ ! -s err ] || { fail "compare is not quiet when piped:"; cat err; }

# Short calls are measured more often than --repeat says, which long ones are not.
run 0 compare --n 16 --heads 1 --dim 4 --threads 1 --repeat 2 --csv e.csv --backward
within e.csv runs 10 1000
within e.csv backward_runs 10 1000

# What the figures mean: keys that are all in one block are exact, others are not.
compared hyper --n 64 --heads 2 --dim 16 --block 64 --sample 0 --sinks 0
within hyper.csv rel_error 0 1e-5
compared hyper --n 512 --heads 2 --dim 16 --block 16 --sample 16 --sinks 0
within hyper.csv rel_error 0.01 5
within hyper.csv max_row_error 0.01 100
within hyper.csv max_head_error "$(column hyper.csv rel_error)" "$(column hyper.csv max_row_error)"
for gen in gauss clustered llm needle perm needle64; do
    compared exact --gen "$gen" --n 100,300 --heads 2 --dim 7 --dtype bf16
    within exact.csv rel_error 0.00001 0.02
done
compared hyper --n 64 --heads 1 --dim 4 --methods hyper
[ "$(column e.csv method | tr '\n' ' ')" = 'exact hyper ' ] || fail "--methods hyper: no exact"
compared exact --n 64 --heads 1 --dim 4 --methods exact
[ "$(wc -l <e.csv)" -eq 2 ] || fail "--methods exact: not one row"
run 0 info
if grep -q 'OpenBLAS   not built in' out; then
    refuses_option compare --methods baseline --n 64
else
    compared baseline --methods exact,baseline --causal --n 100 --heads 2 --kv-heads 1 --dim 8
    within baseline.csv rel_error 0 1e-5
fi

# Files: prefixes, other lengths for queries, conversion to another type.
compared hyper --q q2.npy --k q2.npy --v v2.npy --n 2:8
[ "$(column hyper.csv n | tr '\n' ' ')" = '2 4 8 ' ] || fail "compare: wrong prefixes"
compared hyper --q q.npy --k k.npy --v v.npy --causal --dtype bf16
[ "$(column hyper.csv queries)" = 8 ] || fail "compare: wrong number of queries"
within hyper.csv rel_error 0 0.01
measure compare --q q4.npy --k q4.npy --v v4.npy --dtype f32 --json - --csv e.csv
says out '"results"'

# Gradients: exact where all keys are in one block, and rounded in bf16; others differ.
compared hyper --backward --n 32,64 --heads 2 --kv-heads 1 --dim 16 --block 64 --sample 0 \
    --sinks 0 --json e.json
says out 'Backward:'
says e.json '"backward": true'
for gradient in dq dk dv; do
    within hyper.csv ${gradient}_rel_error 0 1e-5
    says e.json "\"${gradient}_rel_error\""
done
within hyper.csv backward_seconds 1e-9 100
within e.csv other_ms -0.001 1e6
within hyper.csv both_speedup 1e-9 1e9
compared exact --backward --causal --n 100 --heads 2 --dim 7 --dtype bf16
for gradient in dq dk dv; do
    within exact.csv ${gradient}_rel_error 0.00001 0.05
done
compared hyper --backward --q q2.npy --k q2.npy --v v2.npy --n 2:8 --dtype f32
within hyper.csv dv_rel_error 0 1e-5
compared hyper --backward --q q.npy --k k.npy --v v.npy --causal
within hyper.csv dv_rel_error 0 1e-5

# The same seed gives the same input and the same result, whatever the threads.
for threads in 1 3; do
    measure compare --gen llm --n 300 --heads 2 --dim 16 --block 16 --sample 16 --causal --leaf 32 \
        --threads $threads --csv e.csv --backward
    rows_of hyper e.csv
    mv hyper.csv t$threads.csv
done
for figure in rel_error max_head_error dq_rel_error dk_rel_error dv_rel_error; do
    within t1.csv $figure 0.01 5
    [ "$(column t1.csv $figure)" = "$(column t3.csv $figure)" ] || fail "threads change $figure"
done

# ---- sweep ----------------------------------------------------------------------------------------

measure sweep --n 64:256 --heads 2 --dim 16 --leaf 32 --block 16 --sample 16 --peak --csv s.csv \
    --json s.json
[ "$(wc -l <s.csv)" -eq 7 ] || fail "sweep: three lengths, causal and not, do not give six rows"
within s.csv exact_peak_share 0.00001 1000
says s.json '"peak": "'
[ ! -s err ] || { fail "sweep is not quiet when piped:"; cat err; }
measure sweep --n 64 --heads 2 --dim 16 --no-causal --csv - --methods hyper
[ "$(wc -l <out)" -eq 2 ] || fail "sweep --no-causal --csv -: not one row"

# Backward: both is the sum of forward and backward, and what is compared.
measure sweep --backward --n 64:256 --heads 2 --dim 16 --leaf 32 --block 16 --sample 16 --peak \
    --csv s.csv --json s.json
[ "$(wc -l <s.csv)" -eq 7 ] || fail "sweep --backward: not six rows"
[ ! -s err ] || { fail "sweep --backward is not quiet when piped:"; cat err; }
says out 'forward and backward'
says s.json '"backward": true'
says s.json '"exact_backward_seconds"'
within s.csv exact_backward_peak_share 0.00001 1000
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
measure sweep --backward --methods hyper --n 64 --heads 2 --kv-heads 1 --dim 7 --dtype bf16 \
    --csv s.csv
[ -z "$(column s.csv exact_backward_seconds | tr -d '\n')" ] || fail "sweep: exact was not wanted"
within s.csv hyper_both_seconds 1e-9 100
measure sweep --n 64 --heads 2 --dim 16 --csv s.csv
[ -z "$(column s.csv hyper_backward_seconds | tr -d '\n')" ] || fail "sweep: forward only"

# MULTIPOLE has HyperAttention's columns under its own name, and none where it is not timed.
if grep -q multipole s.csv; then fail "sweep: columns of MULTIPOLE, which was not wanted"; fi
head -n 1 s.csv | tr , '\n' | sed -n 's/^hyper_/multipole_/p; s/^.*speedup$/multipole_&/p' |
    sort >wanted
measure sweep --methods exact,multipole,hyper --backward --n 256,512 --heads 2 --dim 16 \
    --block 16 --sample 16 --budget 64 --csv s.csv --json s.json
[ "$(wc -l <s.csv)" -eq 5 ] || fail "sweep --methods exact,multipole,hyper: not four rows"
says out 'budget 64'
says out 'multipole s'
says s.json '"budget": 64'
head -n 1 s.csv | tr , '\n' | grep '^multipole_' | sort | cmp wanted - ||
    fail "sweep: MULTIPOLE's columns are not HyperAttention's: $(head -n 1 s.csv)"
within s.csv multipole_backward_workspace_ratio 0.01 1e6
within s.csv multipole_runs 1 1000
awk -F, 'function near(a, b) { return a > 0 && a / b > 0.99999 && a / b < 1.00001 }
    NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i }
    NR > 1 {
        multipole = $at["multipole_seconds"] + $at["multipole_backward_seconds"]
        if (!near($at["multipole_both_seconds"], multipole) ||
            !near($at["multipole_speedup"], $at["exact_seconds"] / $at["multipole_seconds"]) ||
            !near($at["multipole_both_speedup"], $at["exact_both_seconds"] / multipole))
            bad = 1
        if ($at["n"] == 512 &&
            (!near($at["multipole_growth"], $at["multipole_seconds"] / forward) ||
             !near($at["multipole_both_growth"], multipole / both)))
            bad = 1
        forward = $at["multipole_seconds"]
        both = multipole
    }
    END { exit bad || NR == 0 }' s.csv || fail "sweep: MULTIPOLE's figures disagree: $(cat s.csv)"
measure sweep --methods multipole --n 512 --heads 1 --dim 16 --causal --window 64 --csv s.csv
[ -z "$(column s.csv hyper_seconds)$(column s.csv multipole_speedup)" ] ||
    fail "sweep --methods multipole: more than it"
if grep -q -e 'hyper s' -e 'speed-up' out; then fail "sweep --methods multipole: empty columns"; fi
within s.csv multipole_seconds 1e-9 100

# Exact attention beyond its budget is left out, and what was scaled says so.
measure sweep --n 512 --heads 2 --dim 16 --causal --exact-budget 0 --csv s.csv
[ -z "$(column s.csv exact_seconds)" ] || fail "sweep: exact attention without budget"
measure sweep --n 512 --heads 2 --dim 16 --causal --exact-budget 0 --csv s.csv --backward
[ -z "$(column s.csv exact_both_seconds)" ] || fail "sweep: exact backward without budget"
measure sweep --n 64 --heads 2 --dim 16 --exact-max-n 32 --csv s.csv
[ -z "$(column s.csv exact_seconds | tr -d '\n')" ] || fail "sweep: exact attention above its n"

# A PATH of our own would hide the emulator, and its speed is not what the budget expects.
if [ -z "${EMULATOR-}" ]; then
    measure sweep --n 512 --heads 2048 --dim 8 --no-causal --methods exact --exact-budget 0.05 \
        --threads 1 --csv s.csv
    says out '* one head timed, multiplied by 2048'
    [ "$(column s.csv scaled)" = 1 ] || fail "sweep: a multiplied time is not marked"
    measure sweep --n 512 --heads 2048 --dim 8 --no-causal --methods exact --exact-budget 0.15 \
        --threads 1 --csv s.csv --backward
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
    measure sweep --n 64:256 --heads 1 --dim 16 --plot s.svg
    says s.svg '</svg>'
    says s.svg 'HyperAttention, causal'
    measure sweep --n 64:256 --heads 1 --dim 16 --plot s.svg --backward
    says s.svg 'forward and backward'
    says s.svg 'HyperAttention, causal'
    if grep -q MULTIPOLE s.svg; then fail "sweep --plot: MULTIPOLE, which was not wanted"; fi
    measure sweep --n 256,512 --heads 1 --dim 16 --plot s.svg --methods exact,multipole
    says s.svg 'MULTIPOLE, causal'
    if grep -q Hyper s.svg; then fail "sweep --plot: HyperAttention, which was not wanted"; fi
    mkdir bin
    # shellcheck disable=SC2016  # for the other shell
    printf '#!/bin/sh\n[ "$1" = --version ]\n' >bin/gnuplot
    chmod +x bin/gnuplot
    PATH=$work/bin:$PATH
    run 1 sweep --n 64 --heads 1 --dim 16 --plot bad.svg
    says err 'gnuplot failed'
    no_output bad.svg
fi

finish "compare and sweep do what they say"
