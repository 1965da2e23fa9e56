# SPDX-License-Identifier: Apache-2.0
#
# The SYNOPSIS of an mdoc page as C: #include lines and prototypes.

function arguments(line,    list, sep)
{
    list = ""
    sep = ""
    while (match(line, /"[^"]*"|[^ "]+/)) {
        word = substr(line, RSTART, RLENGTH)
        gsub(/"/, "", word)
        list = list sep word
        sep = ", "
        line = substr(line, RSTART + RLENGTH)
    }
    return list
}

function rest(line)
{
    sub(/^\.[A-Z][a-z] +/, "", line)
    return line
}

/^\.Sh / { on = ($2 == "SYNOPSIS") }
!on { next }
/^\.In / { print "#include <" $2 ">" }
/^\.Ft / { type = arguments(rest($0)); gsub(/, /, " ", type) }
/^\.Fn / { line = rest($0); sub(/^[^ ]+ */, "", line); print type " " $2 "(" arguments(line) ");" }
/^\.Fo / { name = $2; list = ""; sep = "" }
/^\.Fa / { list = list sep arguments(rest($0)); sep = ", " }
/^\.Fc/ { print type " " name "(" list ");" }
