"""The command `compile`: networks compiled once, so that `predict` takes less time on this machine."""

import time
from dataclasses import replace
from pathlib import Path

import click

from challenge.contract import STRUCTURES
from pipeline.inference.window_side import SIDE
from pipeline.model.shipped import DEFAULT_WEIGHTS, WEIGHTS_VARIABLE


@click.command("compile", context_settings={"show_default": True})
@click.option(
    "--weights",
    metavar="FOLDER|NAME",
    help=f"Folder of weights and cards, or a shipped set's name.  [default: ${WEIGHTS_VARIABLE}, or {DEFAULT_WEIGHTS}]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for the compiled networks.  [default: $CROSSMODA_GRL_COMPILED, or the user's cache]",
)
@click.option(
    "--instruction-set",
    type=click.Choice(["AVX2", "AVX512"]),
    show_default="the widest here",
    help="For another processor than this one's: AVX2 code runs on both kinds.",
)
@click.option(
    "--window", type=SIDE, metavar="VOXELS", show_default="the cards'", help="Side of the windows, as for predict."
)
def compile_networks(weights: str | None, out: Path | None, instruction_set: str | None, window: int | None) -> None:
    """Compile the networks for the CPU, once; `predict` then uses them. Needs a C++ compiler and a few minutes.

    A compiled network fits only these weights, this version of torch, and processors with its instruction set.
    Everywhere else `predict` says so in a line, and runs the network uncompiled.
    """
    import torch

    from pipeline.inference.compiled import CompileError, compile_network, folders
    from pipeline.model.shipped import weights_folder
    from pipeline.model.weights import WeightsError, load_segmenter

    folder = out or folders()[0]
    try:
        for structure in STRUCTURES:
            started = time.monotonic()
            segmenter = load_segmenter(weights_folder(weights), structure, torch.device("cpu"))
            segmenter = replace(segmenter, window=window or segmenter.window)
            library = compile_network(segmenter, folder, instruction_set)
            click.echo(f"{structure.title}: {library} ({time.monotonic() - started:.0f} s)")
    except (CompileError, WeightsError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(
            f"{folder}: expected a folder that this user can write to, got: {error.strerror or error}; "
            "name another with --out"
        ) from error
