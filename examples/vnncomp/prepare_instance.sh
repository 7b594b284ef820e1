#!/usr/bin/env bash
# prepare_instance.sh v1 CATEGORY ONNX VNNLIB: find out whether an instance can be run; a failure skips it.
#
# Nothing is analysed here. Asking for the version brings the libraries into the file cache.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

expect_arguments "prepare_instance.sh v1 CATEGORY ONNX VNNLIB" 4 $#
expect_version "$(without_cr "$1")"
find_recurjac
expect_file "$(without_cr "$3")" "an ONNX network"
expect_file "$(without_cr "$4")" "a VNN-LIB property"
"$recurjac" --version >/dev/null
