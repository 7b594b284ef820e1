#!/usr/bin/env bash
# run_instance.sh v1 CATEGORY ONNX VNNLIB RESULTS_FILE TIMEOUT: write the verdict, and after `sat` the counterexample.
#
# Line 1 of RESULTS_FILE is sat, unsat, unknown, timeout or error, whatever happens to the solver. TIMEOUT is in seconds
# and counts from the start of this script. RECURJAC_OPTIONS has further options of `recurjac verify`.
set -euo pipefail
started=$(date +%s)
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

grace=${RECURJAC_GRACE:-10} # seconds after TIMEOUT to answer in; the harness waits for 60

expect_arguments "run_instance.sh v1 CATEGORY ONNX VNNLIB RESULTS_FILE TIMEOUT" 6 $#
expect_version "$(without_cr "$1")"
onnx=$(without_cr "$3")
vnnlib=$(without_cr "$4")
results=$(without_cr "$5")
seconds=$(without_cr "$6")

# Replaced in one step: whoever reads the file finds a verdict, and never half of an assignment.
write_verdict() {
    local temporary
    temporary=$(mktemp "$results.XXXXXX" 2>/dev/null) || refuse "\`$results\` cannot be written; check the folder." 1
    if ! { printf '%s\n' "$1" >"$temporary" && chmod 644 "$temporary" && mv -f "$temporary" "$results"; }; then
        rm -f "$temporary"
        refuse "\`$results\` cannot be written; check the folder." 1
    fi
}

[[ ! -d $results ]] || refuse "\`$results\` is a folder: expected the name of a file to write." 1
# A result of an earlier run must not be taken for this one's, even if this script is killed.
write_verdict error
[[ $seconds =~ ^[0-9]+([.][0-9]*)?$ && $seconds =~ [1-9] ]] ||
    refuse "got the timeout \`$seconds\`, expected a positive number of seconds."
find_recurjac
expect_file "$onnx" "an ONNX network"
expect_file "$vnnlib" "a VNN-LIB property"

# `timeout` ends the process it started and nothing else.
guard=()
if command -v timeout >/dev/null; then
    guard=(timeout --foreground --kill-after=5 "$((${seconds%%.*} + grace))")
fi
read -ra options <<<"${RECURJAC_OPTIONS:-}"

code=0
# Empty arrays are unset variables to bash before 4.4.
${guard[@]+"${guard[@]}"} "$recurjac" verify "$onnx" "$vnnlib" --timeout "$seconds" --since "$started" \
    --results-file "$results" ${options[@]+"${options[@]}"} || code=$?

# 124: ended by `timeout`; 137: killed by it, or, where time is left, by somebody else, e.g. for want of memory.
if ((code == 124 || (code == 137 && $(date +%s) - started >= ${seconds%%.*}))); then
    write_verdict timeout
elif ((code != 0)); then
    write_verdict error
    exit "$code"
fi
