#!/usr/bin/env bash
# install_tool.sh v1: install recurjac and auto_LiRPA into .venv of this repository.
#
# PYTHON         interpreter, 3.10 or newer (default python3)
# AUTO_LIRPA     the host: a pip requirement or a local checkout (default: the newest from git)
# RECURJAC_VENV  where to install (default .venv beside pyproject.toml)
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

expect_arguments "install_tool.sh v1" 1 $#
expect_version "$(without_cr "$1")"

python=${PYTHON:-python3}
host=${AUTO_LIRPA:-git+https://github.com/Verified-Intelligence/auto_LiRPA.git}
command -v "$python" >/dev/null || refuse "\`$python\` is not installed; install Python or set PYTHON." 1

"$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet -c "$repository/constraints.txt" "${repository}[cli,host,onnx]"
# Without its dependencies, because it declares older torch than it runs on, and without build isolation, because its
# setup looks at the torch that is installed.
"$venv/bin/python" -m pip install --quiet --no-deps --no-build-isolation "$host"
"$venv/bin/recurjac" doctor
