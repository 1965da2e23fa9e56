#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The outputs of the hyperattn program: files, pipes, devices, and what cannot be written.
# shellcheck source=tests/program_common.sh
. "${top_srcdir:?}/tests/program_common.sh"

# attend STATUS OPTION...: run on the common input
attend() {
    wanted=$1
    shift
    run "$wanted" run --q q.npy --k k.npy --v v.npy "$@"
}

# The same with the output left to the caller.
program_attend() {
    ${EMULATOR-} "$program" run --q q.npy --k k.npy --v v.npy "$@"
}

attend 0 --out o.npy --lse l.npy

# ---- files ----------------------------------------------------------------------------------------

# An output replaces what was there, through a symbolic link too, and a device stays a device.
echo old >old.npy
ln -s old.npy link.npy
attend 0 --out link.npy
[ -h link.npy ] || fail "the link was replaced"
cmp old.npy o.npy || fail "old.npy was not replaced"
attend 0 --out /dev/null
[ -c /dev/null ] || fail "/dev/null is no device any more"

# Outputs that cannot be written are noticed, before the work.
attend 1 --out nowhere/bad.npy
says err 'nowhere/bad.npy'
attend 1 --out bad.npy --dout dout.npy --dv nowhere/bad.npy
no_output bad.npy
ln -s nothing dangling
attend 1 --out dangling
says err 'link to no file'
[ -h dangling ] || fail "a link to no file was replaced"
run 2 sweep --csv .

# ---- what is not seekable -------------------------------------------------------------------------

for name in - /dev/stdout; do
    program_attend --out $name | cat >piped.npy
    cmp piped.npy o.npy || fail "--out $name: not what a file gets"
    program_attend --out $name >direct.npy
    cmp direct.npy o.npy || fail "--out $name to a file: not what a file gets"
    {
        printf before
        program_attend --out $name
        printf after
    } >among.npy
    { printf before && cat o.npy && printf after; } | cmp - among.npy ||
        fail "--out $name does not write where standard output is"
done
mkfifo fifo
cat fifo >piped.npy &
attend 0 --out fifo --lse l2.npy
wait
cmp piped.npy o.npy || fail "--out fifo: not what a file gets"
cmp l2.npy l.npy || fail "--lse beside --out fifo: not what a file gets"
[ -p fifo ] || fail "the pipe was replaced"

# ---- two names of one file ------------------------------------------------------------------------

mkdir folder
ln -s . same
# Two names each: of a file that does not exist yet, of one that does, of what is no file.
for names in 'bad.npy bad.npy' 'bad.npy ./bad.npy' 'bad.npy same/bad.npy' \
    'bad.npy folder/../bad.npy' "bad.npy $PWD/bad.npy" 'old.npy link.npy' 'old.npy same/old.npy' \
    '- -' '- /dev/stdout' '/dev/null /dev/../dev/null'; do
    # shellcheck disable=SC2086  # two words
    set -- $names
    attend 2 --out "$1" --lse "$2"
    says err '--lse and --out name the same file'
    run 2 compare --n 16 --heads 1 --json "$1" --csv "$2"
    says err '--csv and --json name the same file'
    run 2 compare --n 16 --heads 1 --json "$1" --plot "$2"
    says err '--plot and --json name the same file'
    run 2 sweep --n 16 --heads 1 --csv "$1" --plot "$2"
    says err '--plot and --csv name the same file'
    no_output bad.npy
done
attend 2 --dout dout.npy --dk bad.npy --dv same/bad.npy
says err '--dv and --dk name the same file'
attend 0 --out folder/two.npy --lse two.npy
if cmp folder/two.npy two.npy >/dev/null; then fail "two files of one name are one"; fi

# ---- full and closed ------------------------------------------------------------------------------

# lost ARGUMENT...: what the program prints cannot be written, which it says
lost() {
    for how in full closed; do
        status=0
        case $how in
        full) ${EMULATOR-} "$program" "$@" >/dev/full 2>err || status=$? ;;
        closed) ${EMULATOR-} "$program" "$@" >&- 2>err || status=$? ;;
        esac
        [ $status -eq 1 ] || fail "hyperattn $*, $how output: status $status"
        says err 'standard output'
    done
}

if [ -c /dev/full ]; then
    attend 1 --out /dev/full
    says err '/dev/full'
    attend 1 --out bad.npy --dout dout.npy --dk /dev/full
    no_output bad.npy
    small='--n 16 --heads 1 --dim 4 --repeat 1'
    # shellcheck disable=SC2086
    {
        run 1 compare $small --csv /dev/full
        run 1 compare $small --json /dev/full
        lost compare $small
        lost compare $small --csv -
        lost compare $small --json -
        lost sweep $small
        if command -v gnuplot >/dev/null && [ -z "${EMULATOR-}" ]; then
            run 1 sweep --n 16,32 --heads 1 --dim 4 --repeat 1 --plot /dev/full
            says err '/dev/full'
            lost sweep $small --plot -
            run 1 compare $small --plot /dev/full
            says err '/dev/full'
            lost compare $small --plot -
        fi
    }
    lost --version
    lost --help
    lost info
    lost info --json
    for command in info run compare sweep; do
        lost $command --help
        lost $command --usage
    done
    lost run --q q.npy --k k.npy --v v.npy --out -
fi

# A closed stream that nothing is meant for is no matter, and no file takes its place.
program_attend --out closed.npy >&- || fail "closed standard output: status $?"
cmp closed.npy o.npy || fail "closed standard output: not what a file gets"
program_attend --out closed.npy --lse l2.npy <&- >&- 2>&- || fail "closed streams: status $?"
cmp closed.npy o.npy || fail "closed streams: not what a file gets"
cmp l2.npy l.npy || fail "closed streams: not what a file gets"

finish "outputs arrive, or the program says that they did not"
