"""The command `view`. The page's address goes to stdout, messages to stderr."""

import threading
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

import click

from challenge.layouts import DEFAULT_LAYOUT, LAYOUTS
from challenge.names import shown
from challenge.signals import Interrupted, interruptible

if TYPE_CHECKING:
    from pipeline.inference.viewer.cases import CaseFiles
    from pipeline.inference.viewer.server import ViewerServer

_PATH = click.Path(path_type=Path)


@click.command(context_settings={"show_default": True})
@click.option("--scan", type=_PATH, help="A scan, .nii, .nii.gz, .mha or .nrrd.")
@click.option("--folder", type=_PATH, help="Instead of --scan: a folder of {case}_hrT2.nii.gz, or as --layout has it.")
@click.option(
    "--labels",
    type=_PATH,
    show_default="with --folder: that folder",
    help="The label map of --scan; with --folder, a folder of {case}_Label.nii.gz.",
)
@click.option("--reference", type=_PATH, help="A reference label map to compare with; with --folder, a folder of them.")
@click.option(
    "--layout",
    type=click.Choice([name for name, layout in LAYOUTS.items() if not layout.dicom]),
    default=DEFAULT_LAYOUT,
    help="How a folder's scans and label maps are named, and which labels there are; docs/layouts.md describes them.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default="a free one", help="Of the address.")
@click.option("--browser/--no-browser", default=True, help="Open the page in the browser.")
def view(
    scan: Path | None,
    folder: Path | None,
    labels: Path | None,
    reference: Path | None,
    layout: str,
    port: int,
    browser: bool,
) -> None:
    """Look at scans with their label maps in the browser, in three planes and in 3-D, until Ctrl-C.

    The page is served to this machine alone. Its address has a random part, without which nothing is served.
    """
    from challenge.nifti import CaseError
    from pipeline.inference.inputs import SubmissionError
    from pipeline.inference.viewer.niivue import NiiVueError, require_bundle
    from pipeline.inference.viewer.server import ViewerServer

    structures = [structure for structure in LAYOUTS[layout].scored if not structure.also]
    try:
        cases = _cases(scan, folder, labels, reference, layout)
        require_bundle()
        server = ViewerServer(cases, structures, _tell, port)
    except (NiiVueError, SubmissionError, CaseError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(
            f"--port {port}: expected a port to listen on, got: {error.strerror}; name another"
        ) from error
    with server:
        if scan and isinstance(case := server.read(0), CaseError):
            raise click.ClickException(str(case))
        _serve(server, browser)


def _cases(
    scan: Path | None, folder: Path | None, labels: Path | None, reference: Path | None, layout: str
) -> "list[CaseFiles]":
    from pipeline.inference.viewer.cases import CaseFiles
    from pipeline.inference.viewer.folder import cases_of_folder

    if folder is not None and scan is None:
        return cases_of_folder(folder, labels or folder, reference, layout, _tell)
    if scan is not None and folder is None and labels is not None:
        return [CaseFiles(scan.name.partition(".")[0], scan, labels, reference)]
    raise click.UsageError("expected --scan FILE with --labels FILE, or --folder DIR; give one of the two")


def _serve(server: "ViewerServer", browser: bool) -> None:
    """Serve until a signal, which is the way to stop it."""
    try:
        with interruptible():
            click.echo(server.url)
            _tell("stop with Ctrl-C")
            if browser:  # one that runs in the terminal returns when it is closed
                threading.Thread(target=webbrowser.open, args=[server.url], daemon=True).start()
            server.serve_forever()
    except Interrupted:
        _tell("stopped")


def _tell(message: str) -> None:
    click.echo(shown(message), err=True)
