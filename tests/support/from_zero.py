"""The published program's way to add drops up."""

from __future__ import annotations

from recurjac_plugin.certificates.drops import Drops


class FromZero(Drops):
    """Drops that are added up from 0 on for every radius, as in the published program."""

    def up_to(self, *arguments, **options):
        self.radius.zero_()
        self.drop.zero_()
        return super().up_to(*arguments, **options)
