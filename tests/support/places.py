"""Where things lie in the repository."""

from __future__ import annotations

from pathlib import Path

import recurjac_plugin

ROOT = Path(recurjac_plugin.__file__).parent.parent
DATA = ROOT / "examples" / "data"
