"""``python -m recurjac_plugin.cli``, the same as ``recurjac``."""

from . import main

main()
