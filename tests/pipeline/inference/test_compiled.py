"""Compiled networks: one is compiled here, in about a minute, and then used, damaged, moved and refused."""

import json
import os
import shutil
from dataclasses import asdict, replace

import pytest
import torch
from click.testing import CliRunner

from challenge.contract import COCHLEA, VS
from crossmoda_grl.__main__ import main
from pipeline.inference import compiled
from pipeline.inference.compiled import (
    FOLDER_VARIABLE,
    CompiledNetwork,
    CompileError,
    compile_network,
    fastest_form,
    instruction_sets_here,
    key_of,
)
from pipeline.model.inference_form import InferenceForm, InferenceSegmenter
from pipeline.model.weights import Segmenter
from tests.segmenters import CPU, WINDOW, narrow_network, write_narrow_weights

pytestmark = pytest.mark.skipif(
    not instruction_sets_here() or shutil.which("g++") is None, reason="compiles for x86 processors with AVX2, with g++"
)


def segmenter(seed: int = 0) -> Segmenter:
    return Segmenter(VS, narrow_network(seed), WINDOW, CPU, card={"a": 1})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The library of one network, as `compile` leaves it."""
    return compile_network(segmenter(), tmp_path_factory.mktemp("compiled"), "AVX2")


@pytest.fixture
def library(made, tmp_path, monkeypatch):
    """A copy of it, in the folder where `predict` looks, and nothing else there or in the user's cache."""
    folder = tmp_path / "compiled"
    folder.mkdir(mode=0o700)
    for path in (made, made.with_suffix(".json")):
        shutil.copy(path, folder)
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder / made.name


def formed(of: Segmenter) -> tuple[Segmenter, str]:
    lines: list[str] = []
    return fastest_form(of, lines.append), "\n".join(lines)


def assert_uncompiled(of: Segmenter, reason: str) -> None:
    form, told = formed(of)
    assert isinstance(form.network, InferenceForm)
    assert told.startswith("VS: network runs uncompiled and slower: ")
    assert reason in told
    assert "\n" not in told


def test_compiled_network_takes_the_network_s_place_and_gives_its_probabilities(library):
    assert sorted(path.suffix for path in library.parent.iterdir()) == [".json", ".so"]
    plain = segmenter()
    form, told = formed(plain)
    assert told == ""
    assert isinstance(form, InferenceSegmenter)
    assert isinstance(form.network, CompiledNetwork)
    assert (form.windows_per_pass, form.window, form.card) == (4, WINDOW, {"a": 1})
    windows = torch.randn(3, 1, WINDOW, WINDOW, WINDOW)
    with torch.inference_mode():
        torch.testing.assert_close(form(windows), plain(windows), rtol=0, atol=1e-5)
        with pytest.raises(ValueError, match=r"expected float32 windows \(4, 1, 16, 16, 16\) on the CPU, got"):
            form.network(windows[..., :8])


def test_other_weights_and_other_processors_run_uncompiled(library, monkeypatch):
    assert_uncompiled(segmenter(seed=1), "none is compiled; crossmoda-grl compile does that once")
    # The wider instruction set comes first, and where it has nothing, AVX2's serves.
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert isinstance(formed(segmenter())[0].network, CompiledNetwork)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert_uncompiled(segmenter(), "torch compiles for x86 processors with AVX2, not for this one")


def test_statistics_of_a_cohort_make_another_network(library):
    """Its card is the old one, so the key is made from the weights themselves."""
    of = segmenter()
    of.network.encoder.initial.norm.running_mean += 0.01
    assert_uncompiled(of, "none is compiled")


def test_damaged_library_is_not_loaded(library):
    content = bytearray(library.read_bytes())
    content[len(content) // 2] ^= 1
    library.write_bytes(content)
    assert_uncompiled(segmenter(), f"{library}: it is not the library that was recorded; crossmoda-grl compile")
    library.with_suffix(".json").write_text("{")
    assert_uncompiled(segmenter(), "its record is damaged")
    library.with_suffix(".json").unlink()
    assert_uncompiled(segmenter(), "No such file")


@pytest.mark.parametrize("which", ["folder", "library", "record"])
def test_library_that_others_can_write_is_not_loaded(library, which):
    path = {"folder": library.parent, "library": library, "record": library.with_suffix(".json")}[which]
    path.chmod(path.stat().st_mode | 0o022)
    assert_uncompiled(segmenter(), f"others can write {path.name}, and a library is code")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_library_of_another_user_is_not_loaded(library):
    os.chown(library, 12345, 12345)
    assert_uncompiled(segmenter(), "belongs to another user")


def test_library_of_another_network_does_not_pass_the_check(library):
    other = key_of(segmenter(seed=1), "AVX2")
    record = json.loads(library.with_suffix(".json").read_text()) | asdict(other)
    shutil.copy(library, library.with_name(f"{other.name}.so"))
    library.with_name(f"{other.name}.json").write_text(json.dumps(record))
    assert_uncompiled(segmenter(seed=1), "it disagrees with the network in ")


def test_library_that_is_no_library_is_told(library):
    key = key_of(segmenter(), "AVX2")
    library.write_bytes(b"no library")
    with pytest.raises(compiled.UnusableError, match="it cannot be loaded"):
        CompiledNetwork(library, key)


def test_nothing_is_compiled_for_another_device_or_another_network(library):
    for of in (replace(segmenter(), device=torch.device("meta")), replace(segmenter(), network=torch.nn.Identity())):
        assert formed(of) == (of, "")


def test_no_compiler_and_a_processor_without_the_instructions_are_clear_errors(tmp_path, monkeypatch):
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "no-such-compiler"))
    weights = write_narrow_weights(tmp_path / "weights")
    result = CliRunner().invoke(main, ["compile", "--weights", str(weights), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "expected a working C++ compiler such as g++, got: " in result.stderr
    assert list((tmp_path / "out").iterdir()) == []
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    with pytest.raises(CompileError, match="expected a processor with AVX512, got one with AVX2"):
        compile_network(segmenter(), tmp_path, "AVX512")


def test_predict_uses_it(library, tmp_path):
    """The narrow VS network is compiled and the narrow cochlea's is not."""
    from tests.images import write_scan

    weights = write_narrow_weights(tmp_path / "weights")
    write_scan(tmp_path / "crossmoda_1_hrT2.nii.gz")
    command = ["predict", "--input", tmp_path, "--output", tmp_path / "out", "--weights", weights, "--device", "cpu"]
    result = CliRunner().invoke(main, [*map(str, command)])
    assert result.exit_code == 0, result.output
    told = [line for line in result.stderr.splitlines() if "uncompiled" in line]
    assert len(told) == 1
    assert told[0].startswith(f"{COCHLEA.title}: ")
