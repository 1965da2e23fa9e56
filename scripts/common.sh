# shellcheck shell=sh
# SPDX-License-Identifier: Apache-2.0
#
# What the scripts share: finding the packages, building below build/, and running the tests.
# Sourced from the top of the source tree.

# What building needs, and what a cross build for AArch64 needs besides.
# shellcheck disable=SC2034  # used by the scripts
build_packages="autoconf automake libtool pkg-config gcc libc6-dev make libopenblas-dev
    libjansson-dev gnuplot-nox"
# shellcheck disable=SC2034
arm64_packages="gcc-aarch64-linux-gnu g++-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static"

# The Python that Debian's packages are for.
debian_python=python3
! command -v dpkg-query >/dev/null || debian_python=/usr/bin/python3

die() {
    echo "$0: $*" >&2
    exit 1
}

# Whether a Debian package, or on another system what it would bring, is here.
is_present() {
    if command -v dpkg-query >/dev/null; then
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
        return
    fi
    case $1 in
    libtool) command -v libtoolize ;;
    gnuplot-nox) command -v gnuplot ;;
    check) pkg-config --exists check ;;
    libjansson-dev) pkg-config --exists jansson ;;
    libopenblas-dev) pkg-config --exists openblas ;;
    libsimde-dev) echo '#include <simde/x86/avx512.h>' | cc -E -o /dev/null - ;;
    libc6-dev) echo '#include <stdio.h>' | cc -E -o /dev/null - ;;
    python3-numpy) "$debian_python" -c 'import numpy' ;;
    python3-pytest) "$debian_python" -c 'import pytest' ;;
    python3-venv) "$debian_python" -c 'import ensurepip, venv' ;;
    libomp-dev) echo '#include <omp.h>' | clang -fopenmp -E -o /dev/null - ;;
    bible-kjv) command -v bible ;;
    xz-utils) command -v xz ;;
    *) command -v "$1" ;;
    esac >/dev/null 2>&1
}

# need PACKAGE...: installs those that are missing, or names them and stops.
need() {
    missing=
    for package in "$@"; do
        is_present "$package" || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0

    sudo=
    [ "$(id -u)" = 0 ] || sudo=sudo
    if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
        die "these are missing (names of Debian packages):$missing"
    elif [ -n "$sudo" ] && ! command -v sudo >/dev/null; then
        die "these packages are missing, and there is no sudo to install them with:$missing"
    fi
    echo "installing:$missing"
    # One source that cannot be read fails the update; what counts is whether the packages are
    # found. sudo would drop the proxies.
    # shellcheck disable=SC2086  # words, on purpose
    $sudo env DEBIAN_FRONTEND=noninteractive ${http_proxy:+"http_proxy=$http_proxy"} \
        ${https_proxy:+"https_proxy=$https_proxy"} ${no_proxy:+"no_proxy=$no_proxy"} sh -c '
        apt-get -q update
        apt-get -q -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@"' \
        apt-get $missing >build/apt.log 2>&1 || {
        tail -n 20 build/apt.log
        die "apt-get could not install:$missing"
    }
}

# in_build DIR COMMAND...: runs it in build/DIR, with its output in build/DIR.log; on failure shows
# the end of that and stops.
in_build() {
    directory=$1
    shift
    (cd "build/$directory" && "$@") >>"build/$directory.log" 2>&1 || {
        tail -n 60 "build/$directory.log"
        die "failed: $* (in build/$directory; the whole output is build/$directory.log)"
    }
}

# What says how to build, and with which tools. make learns of it too, but not that objects are
# stale when it changes.
build_rules() {
    {
        cat configure.ac m4/ha_*.m4 Makefile.am ./*/Makefile.am
        autoconf --version
        automake --version
        libtoolize --version
    } | cksum
}

# autotools: makes configure, where that was not done by these rules before. Any later autoreconf
# would make every build configure itself anew, wherever make comes by next.
autotools() {
    rules=$(build_rules)
    [ ! -f configure ] || [ "$(cat build/autotools.rules 2>/dev/null)" != "$rules" ] || return 0
    rm -f build/autotools.rules
    autoreconf -fi >build/autoreconf.log 2>&1 || {
        cat build/autoreconf.log
        die "autoreconf failed"
    }
    echo "$rules" >build/autotools.rules
}

# build DIR CONFIGURE-ARGUMENT...: makes build/DIR, from nothing unless it was configured with these
# arguments, rules and variables before.
build() {
    directory=$1
    shift
    variables='(CC|CXX|CPP|(C|CXX|CPP|LD)FLAGS|LIBS|CONFIG_SITE|PKG_CONFIG.*|[A-Z]*_(CFLAGS|LIBS))'
    inputs="$(build_rules) $* $(env | grep -E "^$variables=" | sort)"
    : >"build/$directory.log"
    if [ "$(cat "build/$directory.inputs" 2>/dev/null)" != "$inputs" ] ||
        [ ! -f "build/$directory/config.status" ]; then
        rm -rf "build/$directory" "build/$directory.inputs"
        mkdir "build/$directory"
        in_build "$directory" ../../configure "$@"
        echo "$inputs" >"build/$directory.inputs"
    fi
    in_build "$directory" make -s
}

step() {
    echo
    echo "==> $* ($(($(date +%s) - started)) s)"
}

# run_tests DIR TARGET...: make TARGET in build/DIR, then what the tests said of themselves. All of
# it is read from the files of the tests; what make prints is for people.
run_tests() {
    directory=$1
    shift
    failed=no
    rm -f "build/$directory"/tests/*.log "build/$directory"/tests/*.trs
    (cd "build/$directory" && make "$@") >"build/$directory.log" 2>&1 || failed=yes
    counts=$(sed -n 's/^:test-result: \([A-Z]*\).*/\1/p' "build/$directory"/tests/*.trs |
        sort | uniq -c | awk '{ line = line sep $2 " " $1; sep = ", " } END { print line }')
    [ -n "$counts" ] || {
        tail -n 60 "build/$directory.log"
        die "no test ran: make $* in build/$directory"
    }
    # Check's summary, what was left out, and the reasons of what was skipped.
    (cd "build/$directory/tests" &&
        grep -E '^([0-9]+%: Checks|reduced):' ./*.log | sed 's,^\./,,') || :
    for result in "build/$directory"/tests/*.trs; do
        if grep -q '^:test-result: SKIP' "$result"; then
            name=${result##*/}
            name=${name%.trs}
            echo "$(head -n 1 "${result%.trs}.log")|${name%-unbuilt}"
        fi
    done | awk -F '|' '{ names[$1] = names[$1] " " $2 }
        END { for (reason in names) print "skipped, " reason ":" names[reason] }'
    if [ $failed = yes ]; then
        sed '/^SKIP:/,/^SKIP .*(exit/d' "build/$directory/tests/test-suite.log" ||
            tail -n 60 "build/$directory.log"
        die "failed: make $* in build/$directory"
    fi
    echo "$counts"
}

# python_environment NAME FILE: makes build/NAME, a virtual environment with the packages that FILE
# lists, unless it was made of this list before.
python_environment() {
    if ! cmp -s "$2" "build/$1/requirements.txt"; then
        rm -rf "build/$1"
        mkdir "build/$1"
        : >"build/$1.log"
        in_build "$1" "$debian_python" -m venv .
        in_build "$1" bin/pip install -r "../../$2"
        cp "$2" "build/$1/requirements.txt"
    fi
}

# python_tests PYTHON FOLDER VARIABLE=VALUE...: runs the tests there with these in the environment,
# and prints what was skipped and why.
python_tests() {
    interpreter=$1
    tests=$2
    shift 2
    env "$@" PYTHONDONTWRITEBYTECODE=1 "$interpreter" -m pytest -q -rs -p no:cacheprovider \
        "$tests" >build/python.log 2>&1 || {
        tail -n 60 build/python.log
        die "failed: $tests; the whole output is build/python.log"
    }
    grep '^SKIPPED' build/python.log || :
    tail -n 1 build/python.log
}

case $PWD in
*[[:space:]\"\'\`\\\#\$\&]*) die "Automake takes no space or quote, nor # \$ & \\, in a path: $PWD" ;;
esac
mkdir -p build
umask 022
# Not plain C: there gnuplot cannot say "degree", and says so.
LC_ALL=C.UTF-8
export LC_ALL
MAKEFLAGS=-j$(getconf _NPROCESSORS_ONLN)
export MAKEFLAGS
started=$(date +%s)
