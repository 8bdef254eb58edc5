"""The `crossmoda-grl` command: the participant's commands (`pipeline`) and the organiser's (`evaluation`).

A command is imported when it is called. So `evaluate` works without torch, and `--help` answers at once.
"""

from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import click

# name -> (module, attribute, line in --help)
COMMANDS = {
    "predict": (
        "pipeline.inference.cli",
        "predict",
        "Segment a folder of hrT2 scans: label maps on the scans' own grids.",
    ),
    "compile": (
        "pipeline.inference.compile_cli",
        "compile_networks",
        "Compile the networks for this machine's CPU, so that predict takes less time.",
    ),
    "picture": ("pipeline.inference.cli", "picture", "Draw label maps as outlines on their scans."),
    "view": (
        "pipeline.inference.viewer.cli",
        "view",
        "Look at scans with their label maps in the browser, in three planes and in 3-D.",
    ),
    "train": ("pipeline.training.cli", "train", "Train the paper's two phases; the same command resumes a run."),
    "export": ("pipeline.training.cli", "export", "Write a training run's networks in the form that predict loads."),
    "reproduce": (
        "crossmoda_grl.reproduction",
        "reproduce",
        "Train, predict and score: from the challenge's data to the paper's table.",
    ),
    "tune": (
        "pipeline.tuning.cli",
        "tune",
        "Search the paper's hyper-parameters with Optuna, in one process or many.",
    ),
    "study": ("pipeline.tuning.cli", "study", "Show a search's results: table, plots, the best settings."),
    "phantom": ("pipeline.phantom.cli", "phantom", "Make phantom scans with labels in the challenge's layout."),
    "export-dataset": (
        "pipeline.data.cli",
        "export_dataset",
        "Copy the challenge's folders, or phantoms, to a dataset of nnU-Net.",
    ),
    "evaluate": ("evaluation.cli", "evaluate", "Score, rank and report submissions, and run their images."),
}


class LazyGroup(click.Group):
    """A click group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands' names, in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command.

        Raises:
            click.ClickException: a module of the user's hides one of our packages.
        """
        if cmd_name not in COMMANDS:
            return None
        _refuse_hidden_packages()
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command.

        Raises:
            click.ClickException: the command needs a package that is not installed, or another system.
        """
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as missing:
            if missing.name == "fcntl":
                raise click.ClickException(
                    f"{ctx.invoked_subcommand}: expected Linux, whose file locks keep runs whole, got a system without "
                    "them; use the image, WSL 2 or another machine (predict and evaluate run here)"
                ) from missing
            raise click.ClickException(
                f"{ctx.invoked_subcommand}: needs the package {missing.name}, which is not installed; "
                "install it with: "
                "pip install 'crossmoda-grl[segmentation,dicom,onnx,runner,tensorboard,tuning,postgresql,cluster]'"
            ) from missing

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="crossmoda-grl")
def main() -> None:
    """Vestibular schwannoma and cochlea on hrT2 MRI: Kondo's crossMoDA 2021 entry, 3D ENet with gradient reversal."""


def _refuse_hidden_packages() -> None:
    """Refuse a user's `evaluation.py` that Python would import instead of our package, such as `python -m` does."""
    for package in ("challenge", "evaluation", "pipeline"):
        ours = Path(__file__).resolve().parents[1] / package / "__init__.py"
        found = PathFinder.find_spec(package)
        if found is not None and found.origin is not None and Path(found.origin).resolve() != ours:
            raise click.ClickException(
                f"{found.origin}: expected Python to import {package} from {ours.parent}, got this file, which shadows "
                "it; rename or move the file, or run the command `crossmoda-grl` in another folder"
            )


if __name__ == "__main__":
    main()
