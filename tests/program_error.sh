#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# hyperattn measure: figures that are known, tables and files, and what it refuses; and what compare
# says of the measured error.
data=$(cd "${top_srcdir:?}/bench/data" && pwd)
# shellcheck source=tests/program_common.sh
. "${top_srcdir:?}/tests/program_common.sh"

files='--q q.npy --k k.npy --v v.npy'
tensor ones.npy "${order}f4" '(4, 8, 3)' 96 "$f32_one"
tensor zeros.npy "${order}f4" '(4, 8, 3)' 96 '\000\000\000\000'
tensor wide.npy "${order}f4" '(4, 8, 4)' 128 '\000\000\000\000'

# ---- figures --------------------------------------------------------------------------------------

# Zero queries weigh 16 keys alike: of 8 rows, a column's squared norm is 8 / 16^2.
# shellcheck disable=SC2086  # $files: several words, here and below
run 0 measure $files --csv e.csv
[ "$(column e.csv head | tr '\n' ' ')" = '0 1 2 3 all ' ] || fail "measure: wrong lines"
within e.csv rel_error 0 1e-6
within e.csv max_row_error 0 1e-6
within e.csv alpha 0.4999 0.5001
within e.csv kappa 1 1
[ "$(column e.csv rows_checked | tr '\n' ' ')" = '8 8 8 8 32 ' ] || fail "measure: wrong rows"
says out 'at most'
[ ! -s err ] || { fail "measure is not quiet when piped:"; cat err; }

# A given output: the right one, and one that is all error.
# shellcheck disable=SC2086
{
    run 0 measure $files --out ones.npy --csv e.csv
    within e.csv rel_error_high 0 1e-6
    run 0 measure $files --out zeros.npy --csv e.csv
    within e.csv rel_error 0.99999 1.00001
    within e.csv max_row_error 0.99999 1.00001
    run 0 measure $files --out zeros.npy --rows 3 --csv e.csv
    within e.csv rel_error 0.99999 1.00001
    within e.csv rows_checked 3 12
    within e.csv rel_error_low 0 1
    within e.csv rel_error_high 0.99999 1000
}

# Causal, 8 queries of 16 keys: row i sees 9 + i of them, all large at 1 / 4, none at 1 / 40.
# shellcheck disable=SC2086
{
    run 0 measure $files --causal --method exact --csv e.csv
    within e.csv kappa 1 1
    run 0 measure $files --causal --block 4 --csv e.csv
    within e.csv kappa 1.7777 1.7778
}

# A head of a model by each method: what run writes is what measure finds without --out.
real_head() {
    head="--q $data/q.npy --k $data/k.npy --v $data/v.npy --dtype bf16 --causal"
    for options in '--method multipole' '--method multipole --budget 1288' \
        '--method auto --target-error 0.05' '--method multipole --target-error 0.02' \
        '--method hyper --window 256'; do
        # shellcheck disable=SC2086
        {
            run 0 run $head --out real.npy $options
            run 0 measure $head --out real.npy --csv e.csv
            run 0 measure $head --csv own.csv --json own.json $options
        }
        cmp -s e.csv own.csv || fail "$options: measure does not find what run wrote"
        within own.csv rel_error 1e-4 0.2
    done
    within own.csv rel_error 0.02 0.2
    # shellcheck disable=SC2086
    {
        run 0 measure $head --csv small.csv --json own.json --method multipole --budget 324
        says own.json '"method": "multipole"'
        says own.json '"budget": 324'
        run 0 measure $head --csv large.csv --method multipole --budget 1288
        run 0 measure $head --csv target.csv --json own.json --method auto --target-error 0.02
        says own.json '"method": "auto"'
    }
    within target.csv rel_error 1e-4 0.024
    awk -F, 'NR == FNR { small = $2; next } $1 == "all" { exit !($2 < small / 2) }' \
        small.csv large.csv || fail "budget 1288 does not halve the error of 324"
}

if [ -z "${EMULATOR-}" ]; then
    real_head
else
    echo "reduced: no head of 8192 rows under an emulator"
fi

# ---- files ----------------------------------------------------------------------------------------

# shellcheck disable=SC2086
{
    run 0 measure $files --rows 5 --seed 9 --json m.json
    says m.json '"command": "measure"'
    says m.json '"rows": 5'
    says m.json '"out": null'
    says m.json '"seed": "9"'
    says m.json '"rel_error_high"'
    run 0 measure $files --out ones.npy --json -
    says out '"out": "ones.npy"'
    run 0 measure --q q4.npy --k q4.npy --v v4.npy --dtype bf16 --csv -
    says out 'rel_error,rel_error_low,rel_error_high'
    run 0 measure --q q2.npy --k q2.npy --v v2.npy
    says out 'all'
}

# ---- refusals -------------------------------------------------------------------------------------

# shellcheck disable=SC2086
{
    refuses_option measure
    refuses_option measure --q q.npy --k k.npy
    says err '--v'
    refuses_option measure $files --rows 0
    says err '--rows'
    refuses_option measure $files --method baseline
    says err '--method'
    refuses_option measure $files --json bad.npy --csv bad.npy
    refuses_option measure $files --out wide.npy
    says err 'wide.npy: its last dimension is 4'
    refuses_option measure $files --out v2.npy
    refuses_option measure $files --out none.npy
    refuses_option measure $files --window 4
    says err 'causal is 0'
    refuses_option measure $files --gen gauss
}

# ---- beside the truth -----------------------------------------------------------------------------

# All rows of short heads are checked, so the two are the same but for f32 sums.
run 0 compare --n 100 --heads 2 --dim 16 --block 16 --sample 16 --sinks 0 --repeat 1 --csv e.csv
says out 'Measured on 128 rows'
rows_of hyper e.csv
true=$(column hyper.csv rel_error)
for name in measured_error measured_error_low measured_error_high; do
    within hyper.csv $name "$(awk "BEGIN { print $true * 0.9999 }")" \
        "$(awk "BEGIN { print $true * 1.0001 }")"
done
within hyper.csv alpha 1 10000
within hyper.csv kappa 1 1e6

finish "figures, files and refusals of hyperattn measure"
