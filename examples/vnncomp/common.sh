# shellcheck shell=bash
# What the scripts here share. Sourced, not run.

# The command: $RECURJAC, what install_tool.sh installed, or what is on the PATH.
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
venv=${RECURJAC_VENV:-$repository/.venv}

# Lists are written on several systems: a carriage return may end any argument.
without_cr() { printf '%s' "${1%$'\r'}"; }

refuse() {
    printf '%s: %s\n' "${0##*/}" "$1" >&2
    exit "${2:-2}"
}

expect_arguments() { # usage expected given
    (($2 == $3)) || refuse "got $3 arguments, expected $2: $1."
}

expect_version() {
    [[ $1 == v1 ]] || refuse "got the version \`$1\` of the scripts' arguments, expected v1."
}

find_recurjac() {
    if [[ -n ${RECURJAC:-} ]]; then
        recurjac=$RECURJAC
    elif [[ -x $venv/bin/recurjac ]]; then
        recurjac=$venv/bin/recurjac
    else
        recurjac=recurjac
    fi
    command -v "$recurjac" >/dev/null || refuse "\`$recurjac\` is not installed; run install_tool.sh v1 first." 1
}

# A file that is listed may lie there compressed, and the other way round; recurjac looks for both.
# Several networks come as a list, [('f', 'a.onnx'), ('g', 'b.onnx')], which recurjac reads itself.
expect_file() { # path kind
    [[ $1 == \[* ]] && return
    local other=$1.gz
    [[ $1 == *.gz ]] && other=${1%.gz}
    [[ -f $1 || -f $other ]] || refuse "\`$1\` does not exist: expected $2; check the path." 1
}
