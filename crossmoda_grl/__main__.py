"""The `crossmoda-grl` command: joins the participant's commands (`pipeline`) and the organiser's (`evaluation`).

Each command is imported when it is called, so that `evaluate` works without torch and `--help` answers at once.
"""

from importlib import import_module
from typing import Any

import click

# name -> (module, attribute, line in --help)
COMMANDS = {
    "predict": (
        "pipeline.inference.cli",
        "predict",
        "Segment a folder of hrT2 scans: label maps on the scans' own grids.",
    ),
    "picture": ("pipeline.inference.cli", "picture", "Draw label maps as outlines on their scans."),
    "train": ("pipeline.training.cli", "train", "Train the paper's two phases; killed, the same command goes on."),
    "export": ("pipeline.training.cli", "export", "Write a training run's networks in the form that predict loads."),
    "reproduce": (
        "crossmoda_grl.reproduction",
        "reproduce",
        "From the challenge's data to the paper's table, in one command.",
    ),
    "tune": (
        "pipeline.tuning.cli",
        "tune",
        "Search the paper's hyper-parameters with Optuna, alone or shared.",
    ),
    "study": ("pipeline.tuning.cli", "study", "Show what a search has found: table, plots, the best settings."),
    "phantom": ("pipeline.phantom.cli", "phantom", "Make phantom scans with labels in the challenge's layout."),
    "evaluate": ("evaluation.cli", "evaluate", "Score, rank and report submissions, and run their images."),
}


class LazyGroup(click.Group):
    """A click group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands, in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command.

        Raises:
            click.ClickException: a package that the command needs is not installed.
        """
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as missing:
            raise click.ClickException(
                f"{ctx.invoked_subcommand}: needs the package {missing.name}, which is not installed; "
                "install it with: pip install 'crossmoda-grl[segmentation,runner,tensorboard,tuning]'"
            ) from missing

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="crossmoda-grl")
def main() -> None:
    """Vestibular schwannoma and cochlea on hrT2 MRI: Kondo's crossMoDA 2021 entry, 3D ENet with gradient reversal."""


if __name__ == "__main__":
    main()
