#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The module loader, with fake modules: which file is taken, what each way of failing gives, what
# is never loaded. One process per case, since a process looks for the module once.
set -eu
: "${top_builddir:?}"
unset HYPERATTN_BACKEND HYPERATTN_CPU HYPERATTN_LOG HYPERATTN_MODULE_PATH

modules=$top_builddir/tests/modules/.libs
dlname=$(sed -n "s/^dlname='\(.*\)'/\1/p" "$top_builddir/lib/libhyperattn.la")
if [ -z "$dlname" ] || ! grep -q '^#define HA_HAVE_MODULES' "$top_builddir/config.h"; then
    echo "this build loads no modules"
    exit 77
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
cases=0

# module DIRECTORY [NAME]: puts tests/modules/NAME there, or nothing.
module() {
    rm -rf "${work:?}/$1"
    mkdir -p "$work/$1"
    [ -z "${2-}" ] || cp "$modules/$2.so" "$work/$1/libhyperattn-cuda.so"
}

# expect WHAT PATTERN ARGUMENT...: module_user's output is one text that matches.
expect() {
    what=$1 pattern=$2
    shift 2
    # shellcheck disable=SC2086  # an emulator with its arguments
    out=$(${EMULATOR-} "$user" "$work/lib/$dlname" "$@" 2>&1) || out="$out
exit status $?"
    cases=$((cases + 1))
    # shellcheck disable=SC2254  # a pattern, on purpose
    case $out in
    $pattern) ;;
    *)
        echo "$what: got"
        echo "$out"
        echo "in place of $pattern"
        failed=1
        ;;
    esac
}

user=$(cd "$top_builddir/tests" && pwd)/module_user
mkdir "$work/lib"
cp "$top_builddir/lib/.libs/$dlname" "$work/lib"
module path
HYPERATTN_MODULE_PATH=$work/path
export HYPERATTN_MODULE_PATH

# ---- which file ----------------------------------------------------------------------------------

expect "no module, auto" 'cpu *(*) \[ctx is NULL\]' auto
expect "no module, cuda" 'status -4: there is no libhyperattn-cuda.so in *' cuda
case $out in *HYPERATTN*) failed=1 ;; esac
HYPERATTN_BACKEND=cuda expect "no module, by the environment" \
    'status -4: there is no libhyperattn-cuda.so in *' auto

module path exact
expect "a module, auto" 'cuda fake0 (queries: 1) \[ctx is NULL\]' auto
expect "a module, cuda" 'cuda fake3 (queries: 1) \[ctx is NULL\]' cuda 3
expect "a module, cpu" 'cpu * \[ctx is NULL\]' cpu
HYPERATTN_BACKEND=cpu expect "the environment says cpu" 'cpu *' auto
HYPERATTN_BACKEND=cpu expect "a request is above the environment" 'cuda fake0 *' cuda
HYPERATTN_BACKEND=cuda expect "the environment says cuda" 'cuda fake0 *' auto
HYPERATTN_BACKEND=rocm expect "the environment says nonsense" 'status -4: HYPERATTN_BACKEND=rocm*' \
    auto
expect "threads" '8 of 8' threads

cp "$modules/exact.so" "$work/lib/libhyperattn-cuda.so"
unset HYPERATTN_MODULE_PATH
expect "beside the library" 'cuda fake0 (queries: 1) \[ctx is NULL\]' cuda
export HYPERATTN_MODULE_PATH="$work/path"
module path
expect "beside the library, the path being empty" 'cuda fake0 *' cuda
module path broken
FAKE=init expect "the first one found is the one" 'status -4: no driver, said the fake module*' cuda
rm "$work/lib/libhyperattn-cuda.so"

# ---- the whole path ------------------------------------------------------------------------------

module path exact
expect "compute" 'backward: -2, the fake module has no backward
measure: -2, the backend cuda cannot measure
plan: -2, the fake module does plain f32 only
target: 0, method 1, steps 1
target: -2, target_error is 0.25, and the backend cuda cannot choose
workspace 36 0
same' compute

# ---- what does not serve -------------------------------------------------------------------------

# refused STATUS TEXT: with cuda that status and text, with auto the CPU and the text as its reason.
refused() {
    expect "cuda, $2" "status $1: *$2*" cuda
    expect "auto, $2" "cpu *(*$2*) \[ctx is NULL\]*" auto
}

module path broken
path=$work/path/libhyperattn-cuda.so
FAKE=abi refused -5 "$path is of ABI 2, this library of 1"
FAKE=small refused -5 "$path has a table of * bytes"
FAKE=large refused -5 "$path has a table of * bytes"
FAKE=host refused -5 "$path: version mismatch"
FAKE=null refused -4 "$path has a table with a NULL"
FAKE=name refused -4 "$path is the backend rocm, not cuda"
FAKE=nameless refused -4 "$path is the backend (null), not cuda"
FAKE=table refused -4 "$path gives no table"
FAKE=init refused -4 "no driver, said the fake module"
FAKE=silent refused -4 "$path: not supported"
module path nothing
refused -4 "$path has no hyperattn_backend_query"
module path borrower
refused -4 "$path has no hyperattn_backend_query of its own"
module path
echo "not an ELF file, though longer than the header of one would be, so that it is read" >"$path"
refused -4 "$path: *"
mkdir -p "$work/path" && rm "$path" && mkdir "$path"
refused -4 "$path: *"

module path exact
expect "no such device, cuda" 'status -4: device 9 is not there' cuda 9
expect "no such device, auto" 'cpu *(device 9 is not there*) \[ctx is NULL\]' auto 9

# ---- what is never loaded ------------------------------------------------------------------------

module path broken
expect "code of a module that is taken runs" '*ran' auto
module hostile broken
module path
LD_LIBRARY_PATH=$work/hostile expect "LD_LIBRARY_PATH" 'cpu *(*) \[ctx is NULL\]' auto
(
    cd "$work/hostile"
    for relative in . ../hostile hostile; do
        HYPERATTN_MODULE_PATH=$relative expect "a relative path, auto" \
            'cpu *(HYPERATTN_MODULE_PATH is not an absolute path: ignored*) \[ctx is NULL\]' auto
        HYPERATTN_MODULE_PATH=$relative expect "a relative path, cuda" \
            'status -4: there is no *; HYPERATTN_MODULE_PATH is not an absolute path: ignored' cuda
    done
    exit $failed
) || failed=1

# A program with more rights than its caller. It is one if it may be given to another group.
cp "$user" "$work/secure"
other=$(id -G | tr ' ' '\n' | grep -vx "$(id -g)" | head -n 1)
[ -n "$other" ] || [ "$(id -u)" != 0 ] || other=1
chmod 755 "$work"
if [ -n "${EMULATOR-}" ] || [ -z "$other" ] || ! chgrp "$other" "$work/secure" 2>/dev/null ||
    ! chmod g+s "$work/secure" || ! "$work/secure" "$work/lib/$dlname" secure; then
    echo "not tested: secure execution, which this system or user does not give"
else
    user=$work/secure
    HYPERATTN_MODULE_PATH=$work/hostile expect "secure execution" 'cpu *(*) \[ctx is NULL\]' auto
fi

echo "$cases cases, and six of relative paths"
exit $failed
