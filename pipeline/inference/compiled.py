"""Compiled networks: a shared library per network and shape of windows, made ahead of time by torch's AOTInductor.

A compiled network computes what the network's inference form computes, in less time. It needs a C++ compiler when it is
made and none when it is used. It lies in a folder as two files; their name is a hash of all that it depends on::

    vs-3f1c....so      the library
    vs-3f1c....json    what it was compiled from, and the library's sha256

A library is code. It is loaded only if its folder and files belong to this user or to root, nobody else can write them,
and its sha256 is the recorded one. Then it must agree with the network that it stands for, on one batch.

torch's own loader, `torch._inductor.aoti_load_package`, is not used: it asks a compiler for the processor's
instructions, and where there is none it warns of an "outdated pt2 file"; and it unpacks the library into a temporary
folder, from which a hardened container may run nothing.
"""

import hashlib
import json
import os
import stat
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from challenge.files import written_whole
from pipeline.config import OURS
from pipeline.model.inference_form import FORM_VERSION, InferenceForm, InferenceSegmenter, for_inference
from pipeline.model.weights import Segmenter

# A folder of compiled networks that comes before the user's own cache; the image has one.
FOLDER_VARIABLE = "CROSSMODA_GRL_COMPILED"
# Instruction sets that networks are compiled for, by torch's names, and their vectors' bits. Code for AVX2 also runs
# where torch reports AVX512.
VECTOR_BITS = {"AVX2": 256, "AVX512": 512}

# A compiled network may differ from its form by this share of the largest logit, in all voxels but a few: rounding
# decides between nearly equal maxima in a pooling, and then a maximum is unpooled one voxel beside.
_TOLERANCE = 1e-4
_MAX_SHARE_BEYOND = 0.01


class CompileError(Exception):
    """A network that cannot be compiled here: expected, got, next step."""


class UnusableError(Exception):
    """A compiled network that must not be used; the message is the reason, half a sentence."""


@dataclass(frozen=True)
class Key:
    """All that a compiled network depends on."""

    structure: str
    weights_sha256: str
    window: int
    windows: int
    instruction_set: str
    torch: str
    form: int

    @property
    def name(self) -> str:
        """Return the files' name without its ending."""
        text = json.dumps(asdict(self), sort_keys=True)
        return f"{self.structure}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def key_of(segmenter: Segmenter, instruction_set: str) -> Key:
    """Return the key of a segmenter's compiled network; the hash is of the weights as they are now."""
    weights = save({name: tensor.cpu().contiguous() for name, tensor in segmenter.network.state_dict().items()})
    windows, largest = OURS.compiled_together
    return Key(
        segmenter.structure.key,
        hashlib.sha256(weights).hexdigest(),
        segmenter.window,
        windows if segmenter.window <= largest else 1,
        instruction_set,
        torch.__version__,
        FORM_VERSION,
    )


def folders() -> list[Path]:
    """Return the folders that are searched for compiled networks; new ones are written to the first."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crossmoda-grl"
    named = os.environ.get(FOLDER_VARIABLE)
    return [Path(named), cache] if named else [cache]


def instruction_sets_here() -> list[str]:
    """Return the instruction sets of `VECTOR_BITS` that this processor has, the widest first."""
    here = torch.backends.cpu.get_cpu_capability()
    names = list(VECTOR_BITS)
    return names[names.index(here) :: -1] if here in names else []


# --- Making one ---


def compile_network(segmenter: Segmenter, folder: Path, instruction_set: str | None = None) -> Path:
    """Compile a segmenter's network and check the library; return its path. Takes about a minute.

    Args:
        segmenter: on the CPU, with an `ENet3d`.
        folder: is made if it is missing, for this user alone.
        instruction_set: one of `VECTOR_BITS`; None stands for the widest that this processor has.

    Raises:
        CompileError: no compiler, a processor that lacks the instructions, or a result that is not the network's.
        OSError: the folder or the files cannot be written.
    """
    here = instruction_sets_here()
    if not here or instruction_set not in (None, *here):
        raise CompileError(
            f"compiled network: expected a processor with {instruction_set or ' or '.join(VECTOR_BITS)}, got one with "
            f"{torch.backends.cpu.get_cpu_capability()}; networks run uncompiled here"
        )
    key = key_of(segmenter, instruction_set or here[0])
    form = InferenceForm(segmenter.network)  # type: ignore[arg-type]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    library = folder / f"{key.name}.so"
    with written_whole(library) as partial:
        _build(form, _example(key), key, partial)
        partial.chmod(0o644)
        record = {**asdict(key), "sha256": hashlib.sha256(partial.read_bytes()).hexdigest()}
        try:
            _check(CompiledNetwork(partial, key), form, key)
        except UnusableError as error:
            raise CompileError(f"{library}: compiled, but not used: {error}; networks run uncompiled here") from error
    with written_whole(library.with_suffix(".json")) as partial:
        partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return library


def _build(form: InferenceForm, example: torch.Tensor, key: Key, library: Path) -> None:
    from torch._inductor import aoti_compile_and_package
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InductorError
    from torch._inductor.utils import fresh_cache

    options = {
        "freezing": True,
        # As many threads as the process that uses it has, not the one that makes it.
        "cpp.dynamic_threads": True,
        # The instructions that torch itself looks for, and no others of the building machine.
        "cpp.march": "",
        "cpp.simdlen": VECTOR_BITS[key.instruction_set],
    }
    package = library.with_suffix(".pt2")
    try:
        get_cpp_compiler()  # fails at once where there is none
        with torch.no_grad(), fresh_cache():
            exported = torch.export.export(form, (example,))
            aoti_compile_and_package(exported, package_path=str(package), inductor_configs=options)
        with zipfile.ZipFile(package) as archive:
            library.write_bytes(archive.read(next(name for name in archive.namelist() if name.endswith(".so"))))
    except (RuntimeError, InductorError) as error:
        raise CompileError(
            f"compiled network: expected a working C++ compiler such as g++, got: {_first_line(error)}; install one"
        ) from error
    finally:
        package.unlink(missing_ok=True)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# --- Using one ---


class CompiledNetwork(nn.Module):
    """A loaded library: takes windows `(N, 1, D, H, W)` of the compiled shape, returns one logit `(N, D, H, W)`."""

    def __init__(self, library: Path, key: Key) -> None:
        """Load a library, which is code of its maker's.

        Raises:
            UnusableError: it cannot be loaded.
        """
        super().__init__()
        self.shape = (key.windows, 1, key.window, key.window, key.window)
        try:
            self._runner = torch._C._aoti.AOTIModelContainerRunnerCpu(str(library), 1)
        except RuntimeError as error:
            raise UnusableError(f"it cannot be loaded ({_first_line(error)})") from error

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Return the structure's logit minus the background's, `(N, D, H, W)` float32.

        Raises:
            ValueError: another shape or type than the compiled one, which the library itself would not notice.
        """
        if windows.shape != self.shape or windows.dtype != torch.float32 or windows.device.type != "cpu":
            raise ValueError(
                f"compiled network: expected float32 windows {self.shape} on the CPU, got {windows.dtype} "
                f"{tuple(windows.shape)} on {windows.device}; compile it for this shape"
            )
        logits: torch.Tensor = self._runner.run([windows.contiguous()])[0]
        return logits


def fastest_form(segmenter: Segmenter, tell: Callable[[str], None]) -> Segmenter:
    """Return a segmenter on the CPU with its compiled network, or else with its network's inference form.

    On another device, or with another network than an ENet, the segmenter comes back as it is. `tell` takes a line when
    the network runs uncompiled.
    """
    form = for_inference(segmenter)
    if segmenter.device.type != "cpu" or not isinstance(form, InferenceSegmenter):
        return segmenter
    reason = "torch compiles for x86 processors with AVX2, not for this one"
    for instruction_set in instruction_sets_here():
        reason = "none is compiled; crossmoda-grl compile does that once"
        key = key_of(segmenter, instruction_set)
        for folder in folders():
            library = folder / f"{key.name}.so"
            if not library.exists():
                continue
            try:
                _refuse_foreign(library, key)
                network = CompiledNetwork(library, key)
                _check(network, form.network, key)
            except (UnusableError, OSError) as error:
                reason = f"{library}: {error}; crossmoda-grl compile makes it again"
                continue
            return InferenceSegmenter(**{**vars(form), "network": network, "fixed_batch": key.windows})
    tell(f"{segmenter.structure.title}: network runs uncompiled and slower: {reason}")
    return form


def _refuse_foreign(library: Path, key: Key) -> None:
    """Refuse a library that somebody else may have written, or that is not the one that was compiled.

    Raises:
        UnusableError: the reason.
        OSError: a file cannot be read.
    """
    if not hasattr(os, "getuid"):  # Windows
        raise UnusableError("this system does not say who owns a file, and a library is code")
    record_path = library.with_suffix(".json")
    for path in (library.parent, library, record_path):
        status = path.stat()
        if status.st_uid not in (0, os.getuid()):
            raise UnusableError(f"{path.name} belongs to another user, and a library is code")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise UnusableError(f"others can write {path.name}, and a library is code")
    try:
        record: dict[str, Any] = json.loads(record_path.read_text(encoding="utf-8"))
        recorded = record.pop("sha256")
    except (ValueError, KeyError, AttributeError) as error:
        raise UnusableError("its record is damaged") from error
    if record != asdict(key) or hashlib.sha256(library.read_bytes()).hexdigest() != recorded:
        raise UnusableError("it is not the library that was recorded")


def _example(key: Key) -> torch.Tensor:
    """Return one batch of windows to compile and check with: noise of a normalised volume's mean and deviation."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(key.windows, 1, key.window, key.window, key.window, generator=generator)


@torch.inference_mode()
def _check(network: CompiledNetwork, form: nn.Module, key: Key) -> None:
    """Compare a compiled network with the form that it was compiled from, on one batch.

    Raises:
        UnusableError: it fails, or its values are others.
    """
    windows = _example(key)
    expected = form(windows)
    try:
        got = network(windows)
    except RuntimeError as error:
        raise UnusableError(f"it fails ({_first_line(error)})") from error
    if got.shape != expected.shape:
        raise UnusableError(f"it returns the shape {tuple(got.shape)} instead of {tuple(expected.shape)}")
    beyond = ~((got - expected).abs() <= _TOLERANCE * expected.abs().max())
    share = float(beyond.float().mean())
    if share > _MAX_SHARE_BEYOND:
        raise UnusableError(f"it disagrees with the network in {share:.0%} of the voxels of a check")
