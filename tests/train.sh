#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# examples/train.c in small: the loss falls, with HyperAttention as with exact attention, and with
# MULTIPOLE to within half a percent of it; the questions are answered, and the plot has each curve
# twice.
# shellcheck disable=SC2086  # commands are several words
set -eu
: "${top_builddir:?}" "${LIBTOOL:?}"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

train() {
    $LIBTOOL --silent --mode=execute $EMULATOR "$top_builddir/examples/train" "$@"
}

fail() {
    echo "$*"
    cat "$work/output"
    exit 1
}

masks='0 1'
if [ -n "$EMULATOR" ]; then
    echo "reduced: with a causal mask alone"
    masks=1
fi
for causal in $masks; do
    train --n 512 --steps 40 --method all --causal $causal --plot "$work/plot.svg" >"$work/output" 2>&1 ||
        fail "train fails"
    # Lines of the results are: method, "last", loss, accuracy.
    awk '$2 == 1 { first[$1] = $3 }
        $2 == "last" { loss[$1] = $3; right[$1] = $4; methods++ }
        END {
            if (methods != 3) exit 1
            for (m in loss)
                if (!(loss[m] > 0.5 && loss[m] < 0.7 * first[m] && right[m] > 0.9)) exit 1
            if (!(loss["HyperAttention"] < 1.1 * loss["exact"])) exit 1
            if (!(loss["MULTIPOLE"] < 1.005 * loss["exact"])) exit 1
        }' "$work/output" || fail "the loss does not fall, or not with all methods alike"
    [ "$(grep -c "^<polyline" "$work/plot.svg")" = 6 ] || fail "a curve is missing in the plot"
    tail -n 1 "$work/plot.svg" | grep -qx "</svg>" || fail "the plot has no end"
    grep -qi nan "$work/plot.svg" && fail "the plot has numbers that are none"
done

for wrong in "--n 4" "--n 512x" "--steps" "--what 1" "--method none"; do
    if train $wrong >"$work/output" 2>&1; then
        fail "train accepts $wrong"
    fi
done
if train --n 16 --steps 1 --plot "$work/none/plot.svg" >"$work/output" 2>&1; then
    fail "train writes a plot where it cannot"
fi
