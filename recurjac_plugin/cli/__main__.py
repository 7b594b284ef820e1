"""``python -m recurjac_plugin.cli``, the same as ``recurjac``."""

from recurjac_plugin.cli import main

main()
