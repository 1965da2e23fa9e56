# shellcheck shell=sh
# SPDX-License-Identifier: Apache-2.0
#
# What the scripts share: finding the packages, building below build/, and running the tests.
# Sourced from the top of the source tree.

# What building needs.
# shellcheck disable=SC2034  # used by the scripts
build_packages="autoconf automake libtool pkg-config gcc libc6-dev make libopenblas-dev
    libjansson-dev gnuplot-nox"

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
    libomp-dev) echo '#include <omp.h>' | clang -fopenmp -E -o /dev/null - ;;
    qemu-user-static) command -v qemu-aarch64-static ;;
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
    # shellcheck disable=SC2086  # words, on purpose
    $sudo env DEBIAN_FRONTEND=noninteractive sh -c '
        apt-get -q update &&
        apt-get -q install -y --no-install-recommends "$@"' \
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

# build DIR CONFIGURE-ARGUMENT...: configures build/DIR, unless that was done with these arguments
# before, and makes it.
build() {
    directory=$1
    shift
    mkdir -p "build/$directory"
    : >"build/$directory.log"
    if [ ! -f "build/$directory/config.status" ] ||
        [ "$(cat "build/$directory.args" 2>/dev/null)" != "$*" ]; then
        in_build "$directory" ../../configure "$@"
        echo "$*" >"build/$directory.args"
    fi
    in_build "$directory" make -s
}

autotools() {
    autoreconf -i >build/autoreconf.log 2>&1 || {
        cat build/autoreconf.log
        die "autoreconf failed"
    }
}

step() {
    echo
    echo "==> $* ($(($(date +%s) - started)) s)"
}

# run_tests DIR TARGET...: make TARGET in build/DIR, then what the tests said of themselves.
run_tests() {
    directory=$1
    shift
    failed=no
    rm -f "build/$directory"/tests/*.log "build/$directory"/tests/*.trs
    (cd "build/$directory" && make "$@") >"build/$directory.log" 2>&1 || failed=yes
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
    sed -n 's/^# \([A-Z]*\): *\([1-9][0-9]*\)$/\1 \2/p' "build/$directory.log" |
        awk '{ line = line sep $0; sep = ", " } END { print line }'
}

mkdir -p build
MAKEFLAGS=-j$(getconf _NPROCESSORS_ONLN)
export MAKEFLAGS
started=$(date +%s)
