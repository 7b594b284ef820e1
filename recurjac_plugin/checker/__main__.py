"""``python -m recurjac_plugin.checker NETWORK [PROPERTY] CERTIFICATE``.

The exit code is 0 if the certificate is accepted, 1 if it is rejected, 2 for bad input.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from recurjac_plugin.errors import RecurJacError, counted

from . import Rejected, check, check_jacobian


def main(arguments: Sequence[str]) -> int:
    """Check the certificate that the arguments name, say what came out, and return the exit code."""
    if len(arguments) not in (2, 3):
        sys.stderr.write("usage: python -m recurjac_plugin.checker NETWORK [PROPERTY] CERTIFICATE\n")
        return 2
    try:
        accepted = check(*arguments) if len(arguments) == 3 else check_jacobian(*arguments)
    except Rejected as error:
        sys.stdout.write(f"rejected: {error}\n")
        return 1
    except RecurJacError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"accepted: {counted(accepted.boxes, 'box')} in {counted(accepted.regions, 'region')}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
