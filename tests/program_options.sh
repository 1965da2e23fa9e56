#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The options of the hyperattn program: what is no such value, or does not go together, is refused
# with status 2.
# shellcheck source=tests/program_common.sh
. "${top_srcdir:?}/tests/program_common.sh"

# ---- what is required, and what goes together -----------------------------------------------------

files='--q q.npy --k k.npy --v v.npy'
# shellcheck disable=SC2086  # $files: several words, here and below
{
    refuses_option
    refuses_option conpare
    refuses_option run
    refuses_option run $files
    refuses_option run --k k.npy --v v.npy --out bad.npy
    refuses_option run $files --out bad.npy extra
    refuses_option run $files --out bad.npy --dq bad.npy.dq
    says err 'need --dout'
    refuses_option run $files --out bad.npy --dout dout.npy
    says err '--dout needs'
    refuses_option compare $files --heads 2
    refuses_option compare $files --n 4
}
refuses_option compare --q q.npy
refuses_option compare --q q2.npy --k q2.npy --v v2.npy --n 9
refuses_option compare --heads 4 --kv-heads 3
for list in exact,best '' 'exact,' ',hyper' 'exact hyper' exac multipole2 baselin; do
    for command in compare sweep; do
        refuses_option $command --methods "$list"
        says err '--methods'
    done
done
refuses_option sweep --methods auto
says err '--methods'
refuses_option sweep --budget 324
says err 'none of the methods takes one'
refuses_option sweep --methods multipole --budget 0
says err '--budget'
refuses_option sweep --methods multipole --budget 1 --n 1m --heads 64
says err 'budget'
refuses_option sweep --methods exact --block 16
says err 'need hyper among the methods'
refuses_option compare --budgets 324
says err 'none of the methods takes one'
refuses_option compare --methods exact --block 16
says err 'need hyper among the methods'
refuses_option compare --per-head
says err 'needs --heads-dir'
for option in --gen=llm --heads=2 --backward --spectral --hardness; do
    refuses_option compare --heads-dir . "$option"
    says err '--heads-dir'
done
# shellcheck disable=SC2086
refuses_option compare --heads-dir . $files
says err '--heads-dir'
refuses_option sweep --methods exact,baseline --backward

# What would be ignored is refused: exact attention has none of these options.
for option in --block=16 --seed=1 --sampling=vnorm --kappa-cap=2 --strict-causal; do
    for method in '' --method=auto --method=exact '--paper --method=exact'; do
        # shellcheck disable=SC2086
        refuses_option run $files --causal --out bad.npy $option $method
        says err 'need --method hyper'
    done
done
# shellcheck disable=SC2086
for command in 'run --out bad.npy' measure; do
    for option in --budget=324 '--budget=324 --method=hyper' '--budget=324 --method=auto'; do
        refuses_option $command $files $option
        says err '--method multipole'
    done
    refuses_option $command $files --target-error=.1 --method=exact
    says err '--target-error'
    for option in --block=16 --sampling=vnorm --paper; do
        refuses_option $command $files --method=multipole $option
        says err 'need --method hyper'
    done
done
for option in --method=exact --target-error=.1 '--method=multipole --budget=324'; do
    # shellcheck disable=SC2086
    refuses_option measure $files --out q.npy $option
    says err 'given --out'
done
# shellcheck disable=SC2086
run 0 run $files --out o.npy --paper --block 16
# shellcheck disable=SC2086
run 0 run $files --out o.npy --method hyper --block 16

# What the library refuses comes from the arguments, so it is status 2 too, and before the work.
# shellcheck disable=SC2086
for command in "run $files --out bad.npy --method hyper" 'compare --n 64' \
    'sweep --n 1m --heads 64'; do
    refuses_option $command --window 4
    says err 'causal is 0'
    refuses_option $command --strict-causal
    says err 'causal is 0'
    refuses_option $command --causal --strict-causal --kappa-cap 2
    says err 'not supported'
done
# Each of the methods is asked.
for command in compare sweep; do
    for methods in multipole exact,hyper,multipole; do
        refuses_option $command --methods $methods --n 1m --heads 64 --window 4
        says err 'causal is 0'
        refuses_option $command --methods $methods --n 1m --heads 64 --causal --kappa-cap 2
        says err 'not supported'
    done
done

# ---- values ---------------------------------------------------------------------------------------

for option in --method=best --budget=0 --budget=x --target-error=0 --target-error=1.5 \
    --target-error=nan --block=0 --block=256x --block= --block=99999999999 --block=2097152k \
    --block=2m1 --block=1kk --projections=17 --sample=-1 --leaf=0 --leaf=0x10 --sinks=+1 --window=k \
    --scale=nan --scale=x --scale=1e39 --scale=1e-50 --scale=-1e-50 --scale=1e-400 --scale= \
    --kappa-cap=-1 --kappa-cap=1e-50 --seed=-1 --seed=0x10 --seed=18446744073709551616 \
    --seed=18014398509481984k --threads=-1 --threads=5k --dtype=f64 --heavy=all --sampling=2 \
    --nothing; do
    # shellcheck disable=SC2086
    refuses_option run $files --out bad.npy --method hyper "$option"
    says err "${option%%=*}"
done
for list in 0 8:4 8,4 8,8 x '8,' ',8' 8: -8 99999999999999999999 5000000000 4194304k 1:4:8 0x8; do
    refuses_option sweep --n "$list"
    says err "--n"
done
for option in --dim=0 --dim=65k --heads=65m --kv-heads=0 --repeat=0 --repeat=1k --gen-seed=0x1 \
    --exact-max-n=9007199254740992k --sharpness=1e-50 --exact-budget=1e-400 --gen=normal; do
    refuses_option sweep "$option"
    says err "${option%%=*}"
done

# Zero keeps its meaning however it is written, and what a float can hold is taken.
# shellcheck disable=SC2086
for scale in 0 -0 0.000 0e5; do
    run 0 run $files --out o.npy --scale 0.5
    run 0 run $files --out scale.npy --scale "$scale"
    cmp o.npy scale.npy || fail "--scale $scale is not 1/sqrt(4)"
done
# shellcheck disable=SC2086
run 0 run $files --out o.npy --scale 1e-44

# Every whole number is decimal and takes a suffix.
run 0 compare --n 8 --heads 1k --kv-heads 1K --dim 4 --causal --block 2k --sample 3K --leaf 4k \
    --sinks 1m --window 1M --seed 010 --gen-seed 5k --repeat 1 --json -
for figure in '"heads": 1024' '"kv_heads": 1024' '"block_size": 2048' '"sample_size": 3072' \
    '"min_seq_len": 4096' '"num_sinks": 1048576' '"window": 1048576' '"seed": "10"' \
    '"gen_seed": "5120"'; do
    says out "$figure"
done
run 0 compare --n 8 --heads 1 --dim 1k --repeat 1 --seed 7m --threads 0k --json -
says out '"dim": 1024'
says out '"seed": "7340032"'
run 0 sweep --n 1k,01025 --exact-max-n 1k --heads 1 --dim 4 --no-causal --csv s.csv --repeat 1
[ "$(column s.csv n | tr '\n' ' ')" = '1024 1025 ' ] || fail "--n 1k,01025 is not 1024 and 1025"
[ "$(column s.csv exact_seconds | sed -n '/./=')" = 1 ] || fail "--exact-max-n 1k is not 1024"

# Generated input beyond the memory is refused before anything is allocated.
run 1 compare --n 4000000000 --heads 65536 --dim 4096
says err 'memory available'
run 2 compare --n 4000000000 --heads 65536 --dim 65536
says err 'address space'

finish "options are read as the manual says"
