#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# examples/choose.c: what it says it got is what was asked for, at a length where steps of the
# ladder are taken and at one where nothing but exact attention is.
# shellcheck disable=SC2086  # commands are several words
set -eu
: "${top_builddir:?}" "${LIBTOOL:?}"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

choose() {
    $LIBTOOL --silent --mode=execute $EMULATOR "$top_builddir/examples/choose" "$@"
}

fail() {
    echo "$*"
    cat "$work/output"
    exit 1
}

# Lines of heads are: head, method, budget, then private where there is a budget, tried, estimate,
# error. Steps take minutes under an emulator.
if [ -z "$EMULATOR" ]; then
    choose 0.05 8192 >"$work/output" 2>&1 || fail "choose fails"
    awk '$1 ~ /^[0-9]+$/ { heads++; taken[$2]++; if (!($NF <= 0.06)) exit 1 }
        END { exit !(heads == 6 && taken["multipole"] > 0) }' "$work/output" ||
        fail "a head is not within its target, or no head took a step"
    grep -q "^asked for 0.05, got 0.0" "$work/output" || fail "the last line is wrong"
else
    echo "reduced: the short sequence alone"
fi

choose 0.05 256 >"$work/output" 2>&1 || fail "choose fails for a short sequence"
[ "$(grep -c "^ *[0-9]  exact .* 0.0000$" "$work/output")" = 6 ] || fail "not all heads are exact"

for wrong in "2" "-1" "0.1 0" "0.1 8 1"; do
    if choose $wrong >"$work/output" 2>&1; then
        fail "choose accepts $wrong"
    fi
done
