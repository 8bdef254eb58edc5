"""grand-challenge's evaluation containers: the jobs whose label maps they score.

The platform puts `predictions.json` into `/input`, a list of jobs, and each job's files below `/input/{pk}/output`::

    [{"pk": "...", "inputs": [{"image": {"name": "a.mha"}, "socket": {"relative_path": "images/t2-brain-mri"}}],
      "outputs": [{"image": {"name": "b.mha"}, "socket": {"relative_path": "images/vs-and-cochlea"}}]}]

Older versions say `interface` for `socket`. The case is the name of the input's image.

Source: the platform's documentation, and the evaluation methods that its challenge packs generate.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from challenge.files import read_regular

PREDICTIONS_FILE = "predictions.json"
_MAX_BYTES = 2**24
_PLAIN = re.compile(r"[\w-]+")
_SOCKET_FOLDER = re.compile(r"images/[\w-]+")
_ENDING = re.compile(r"\.(mha|nii\.gz|nii|nrrd|tiff?)$", re.IGNORECASE)


def label_maps_of_jobs(folder: Path) -> dict[str, Path]:
    """Find the label maps of the jobs in `predictions.json`, by case; a job without one is left out.

    Raises:
        ValueError: the file is not the platform's, or two jobs are of one case.
        OSError: it cannot be read.
    """
    found: dict[str, Path] = {}
    cases: set[str] = set()
    try:
        jobs = json.loads(read_regular(folder / PREDICTIONS_FILE, _MAX_BYTES))
        for job in jobs:
            (image, _) = _only_image(job["inputs"])
            case = _ENDING.sub("", image)
            if case in cases:
                raise ValueError(f"two jobs of {case}")
            cases.add(case)
            if not any(value.get("image") for value in job["outputs"]):
                continue
            (_, place) = _only_image(job["outputs"])
            if not _PLAIN.fullmatch(str(job["pk"])) or not _SOCKET_FOLDER.fullmatch(place):
                raise ValueError(f"a job or socket named {job['pk']}, {place}")
            output = folder / str(job["pk"]) / "output"
            maps = sorted((output / place).glob("*.mha"))
            if len(maps) > 1:
                raise ValueError(f"{len(maps)} label maps of {case}")
            if maps and not Path(os.path.realpath(maps[0])).is_relative_to(os.path.realpath(output)):
                raise ValueError(f"a link out of the output of {case}")
            if maps:
                found[case] = maps[0]
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{folder / PREDICTIONS_FILE}: expected the platform's list of jobs, each with one image in and one out, "
            f"got {type(error).__name__} ({error}); see the platform's documentation"
        ) from error
    return found


def _only_image(values: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Return the name and folder of the only image among a job's values."""
    images = [value for value in values if value.get("image")]
    if len(images) != 1:
        raise ValueError(f"{len(images)} images of a job")
    socket = images[0].get("socket") or images[0]["interface"]
    return str(images[0]["image"]["name"]), str(socket["relative_path"])
