#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# hyperattn compare beyond times and errors: captured heads, operator norms, hardness, the figure.
data=$(cd "${top_srcdir:?}/bench/data" && pwd)
# shellcheck source=tests/program_common.sh
. "${top_srcdir:?}/tests/program_common.sh"

small='--repeat 1 --heads 2 --dim 16 --block 16 --sample 16 --sinks 0'

# measure ARGUMENT...: times do not matter, so they are taken once
measure() {
    run 0 compare "$@" --repeat 1
}

# ---- costs ---------------------------------------------------------------------------------------

run 0 tune --n 128,256 --heads 1 --dim 16 --repeat 1 --csv tune.csv --json tune.json
[ "$(sed -n '/^ha_costs:$/,$p' out | grep -c '}}, /[*] .*causal [*]/$')" = 2 ] ||
    fail "tune: the table has not two masks"
[ "$(column tune.csv n | sort | uniq -c | tr -s ' \n' ' ')" = ' 18 128 18 256 ' ] ||
    fail "tune: not nine steps at each length and mask"
says tune.json '"costs_causal"'
run 0 tune --n 128 --heads 1 --dim 16 --repeat 1 --causal --csv tune.csv
[ "$(column tune.csv causal | sort -u)" = 1 ] || fail "tune --causal: not causal only"
refuses_option tune --causal --no-causal
refuses_option tune --heads-dir heads --gen llm
run 2 tune --heads-dir nowhere

# ---- captured heads ------------------------------------------------------------------------------

# The captured sample, twice.
mkdir heads heads/b heads/a heads/empty
for folder in a b; do
    for name in q k v; do
        ln -s "$data/$name.npy" heads/$folder/$name.npy
    done
done
bf16='--dtype bf16 --causal --leaf 64 --block 32 --sample 32'
# shellcheck disable=SC2086  # several words, here and below
{
    measure --heads-dir heads $bf16 --n 256,512 --csv h.csv --json h.json --per-head
    says out '2 folders of .npy input'
    says out 'Heads:'
    says h.json '"heads_dir": "heads"'
    says h.json '"folder": "b"'
    # the same folder twice has the same heads twice: the median and the worst are those of one
    measure --heads-dir heads/a $bf16 --n 256,512 --csv one.csv --json one.json
    if grep -q '^Heads:' out; then fail "heads are listed unasked"; fi
    for figure in n method median_error worst_error max_row_error; do
        [ "$(column h.csv $figure)" = "$(column one.csv $figure)" ] ||
            fail "two copies of the heads have another $figure: $(column h.csv $figure)"
    done
    # and those of the heads as compare has them from files
    measure --q "$data/q.npy" --k "$data/k.npy" --v "$data/v.npy" $bf16 --n 256,512 --csv files.csv
    for files in one files; do
        rows_of hyper $files.csv
        mv hyper.csv $files.hyper
    done
    [ "$(column one.hyper worst_error)" = "$(column files.hyper max_head_error)" ] ||
        fail "--heads-dir: the worst head is not that of the files"
    [ "$(column one.hyper max_row_error)" = "$(column files.hyper max_row_error)" ] ||
        fail "--heads-dir: the worst row is not that of the files"
    rows_of exact one.csv
    within exact.csv worst_error 0.00001 0.02
    within one.hyper p90_error 0.01 5

    # what each head takes for an error, and that it has it: of 8192 rows, minutes under an emulator
    if [ -z "${EMULATOR-}" ]; then
        measure --heads-dir heads/a --dtype bf16 --causal --methods auto,multipole \
            --target-error 0.1 --per-head --csv h.csv --json h.json
        says out 'estimate'
        says h.json '"target_error": 0.1'
        says h.json '"taken": "multipole"'
        rows_of auto h.csv
        within auto.csv worst_error 0.001 0.12
    fi
    measure --heads-dir heads/a $bf16 --n 256 --methods multipole --target-error 0.5 --per-head
    says out 'exact'
    refuses_option compare --heads-dir heads/a $bf16 --methods auto
    says err 'auto needs --target-error'
    for wrong in 0 -1 1.1 nan; do
        refuses_option compare --heads-dir heads/a $bf16 --methods auto --target-error $wrong
    done

    # all rows are the default; folders that differ need --n
    cp q.npy k.npy v.npy heads
    measure --heads-dir heads --csv h.csv
    [ "$(column h.csv heads | tr '\n' ' ')" = '4 4 ' ] || fail "--heads-dir: the folder itself"
    [ "$(column h.csv n | tr '\n' ' ')" = '16 16 ' ] || fail "--heads-dir: not all rows"
    run 2 compare --heads-dir heads --n 8
    says err 'prefixes need as many queries as keys'
    rm heads/*.npy
    run 2 compare --heads-dir heads --n 1m $bf16
    says err 'exceeds the'
    mkdir heads/c
    for name in q k v; do
        cp q4.npy heads/c/$name.npy
    done
    if [ -z "${EMULATOR-}" ]; then # all rows of the others come first
        run 2 compare --heads-dir heads $bf16 --repeat 1
        says err 'say --n'
        says out '2 folders of .npy input'
    fi
    rm heads/c/k.npy
    run 2 compare --heads-dir heads $bf16 --n 8 --repeat 1
    says err 'heads/c/k.npy: No such file'
}
run 2 compare --heads-dir heads/empty
says err 'neither it nor a folder in it holds q.npy'
run 2 compare --heads-dir nowhere
says err 'nowhere: No such file'

# ---- operator norms ------------------------------------------------------------------------------

# Zero queries: the softmax of 8 rows over 16 keys is 1/16 everywhere, of norm sqrt(8 / 16), and 16
# rows of three ones have the norm sqrt(48).
measure --q q.npy --k k.npy --v v.npy --spectral --csv s.csv --json s.json
says out 'Operator norms'
rows_of hyper s.csv
within hyper.csv softmax_norm 0.70710 0.70711
within hyper.csv v_norm 6.92820 6.92821
within hyper.csv eps 0 1e-6
says s.json '"spectral"'
rows_of exact s.csv
[ -z "$(column exact.csv eps)" ] || fail "the reference has an eps"

# eps is what the three norms make it, and errors have one; keys in one block have none.
# shellcheck disable=SC2086
for mask in '' --causal; do
    measure $small --n 300 --leaf 64 $mask --spectral --csv s.csv
    rows_of hyper s.csv
    within hyper.csv eps 0.001 10
    within hyper.csv softmax_norm 0.9999 17
    awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i }
        NR > 1 {
            ratio = $at["eps"] * $at["softmax_norm"] * $at["v_norm"] / $at["error_norm"]
            if (!(ratio > 0.99999 && ratio < 1.00001)) bad = 1
        }
        END { exit bad || NR != 2 }' hyper.csv || fail "eps is not that of its norms"
done
measure --n 64 --heads 2 --dim 16 --block 64 --sample 0 --spectral --csv s.csv
rows_of hyper s.csv
within hyper.csv eps 0 1e-5
measure --n 64 --heads 2 --kv-heads 1 --dim 16 --methods exact --dtype bf16 --spectral --csv s.csv
within s.csv eps 1e-6 0.02

# ---- hardness ------------------------------------------------------------------------------------

# 1/8 everywhere in 8 columns: alpha is 8 times 8/64, and row sums are alike.
measure --q q2.npy --k q2.npy --v v2.npy --dtype f32 --n 4,8 --hardness --json h.json --block 2 \
    --sinks 0
says out 'Hardness'
figure() {
    sed -n "s/.*\"$1\": \(-*[0-9.e+-]*\).*/\1/p" h.json | tr '\n' ' '
}
[ "$(figure alpha_max)" = '1.0 1.0 ' ] || fail "hardness: alpha is $(figure alpha_max)"
[ "$(figure kappa_max)" = '1.0 1.0 ' ] || fail "hardness: kappa is $(figure kappa_max)"
says h.json '"kappa_exponent": 0.0'
says h.json '"kappa_rows": 8'

# One key per query: the columns of the softmax are all but of norm 1, so alpha grows as n.
# shellcheck disable=SC2086
measure $small --gen perm --dim 64 --n 256:1024 --hardness --json h.json
exponents=$(figure alpha_exponent)
echo "$exponents" | awk '
    { for (i = 1; i <= NF; i++) if ($i < 0.8 || $i > 1.2) bad = 1 } END { exit bad || NF != 2 }' ||
    fail "hardness: alpha of perm grows as n to the $exponents"

# ---- figure --------------------------------------------------------------------------------------

if command -v gnuplot >/dev/null && [ -z "${EMULATOR-}" ]; then
    # shellcheck disable=SC2086
    {
        measure $small --n 128:512 --plot p.svg
        says p.svg '</svg>'
        says p.svg 'n = 512'
        says p.svg 'HyperAttention'
        says p.svg 'times faster than exact'
        run 0 compare $small --n 128 --plot -
        says out '</svg>'
        if grep -q 'rel. error' out; then fail "--plot -: a table too"; fi
        # no error to draw: exact attention's time alone
        run 0 compare --repeat 1 --n 64 --heads 1 --block 64 --sample 0 --plot p.svg
        says p.svg '</svg>'
        rm -r heads/c
        measure --heads-dir heads $bf16 --n 256,512 --plot p.svg
        says p.svg 'the worst'
    }
fi

finish "compare shows heads, norms, hardness and its figure"
