"""The side of a cubic window as a command's option. Needs no torch."""

import click

from pipeline.config import LARGEST_WINDOW, SIDE_MULTIPLE


class WindowSide(click.ParamType):
    """A whole number of voxels that ENet can halve three times."""

    name = "voxels"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the side; anything else is an error of usage."""
        side = int(str(value)) if str(value).isdecimal() else 0
        if side % SIDE_MULTIPLE or not SIDE_MULTIPLE <= side <= LARGEST_WINDOW:
            self.fail(f"expected a multiple of {SIDE_MULTIPLE} up to {LARGEST_WINDOW}, got {value}", param, ctx)
        return side


SIDE = WindowSide()
