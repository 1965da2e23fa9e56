# SPDX-License-Identifier: Apache-2.0
#
# The complete programs among the literal displays of an mdoc page, written to the files
# PREFIX1.c, PREFIX2.c, ... (-v prefix=PREFIX). Prints the files' names.

/^\.Bd .*-literal/ { on = 1; text = ""; next }
/^\.Ed/ {
    if (on && text ~ /int main\(/) {
        file = prefix (++count) ".c"
        printf "%s", text > file
        close(file)
        print file
    }
    on = 0
}
on {
    line = $0
    sub(/^\\&/, "", line)
    gsub(/\\&/, "", line)
    gsub(/\\-/, "-", line)
    gsub(/\\\(aq/, "'", line)
    gsub(/\\\(dq/, "\"", line)
    gsub(/\\\(ha/, "^", line)
    gsub(/\\\(ti/, "~", line)
    gsub(/\\(e|\(rs)/, "\\", line)
    text = text line "\n"
}
