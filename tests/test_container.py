"""Our image on a real engine: built offline, locked down, on phantoms and on a real scan, and in compose."""

import json
import os
import shutil
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from click.testing import CliRunner

from challenge.contract import STRUCTURES, TARGET_SUFFIX, case_of, label_file
from challenge.nifti import read_geometry
from crossmoda_grl.__main__ import main
from pipeline.model.weights import load_segmenter
from tests.images import OBLIQUE, write_scan

ROOT = Path(__file__).parent.parent
REAL_SCAN = ROOT.parent / "shared" / "mri" / "crossmoda_901_hrT2.nii.gz"
IMAGE = "crossmoda-grl:test"

# docker run --rm --network none --read-only --tmpfs /tmp --user 12345:12345 --cap-drop ALL
#   --security-opt no-new-privileges --shm-size 64m --memory 6g --pids-limit 256 --cpus 1 -v IN:/input:ro -v OUT:/output
# One core, because other tests keep the others busy: threads that wait for each other would take four times as long.
LOCKED_DOWN = {
    "network_mode": "none",
    "read_only": True,
    "tmpfs": {"/tmp": ""},
    "user": "12345:12345",
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "shm_size": "64m",
    "mem_limit": "6g",
    "pids_limit": 256,
    "nano_cpus": 10**9,
}

TINY = """
window = 48
batch_size = 2
patches_per_volume = 2
epochs = 2
validate_every = 2
overlap = 0.0
channels = [4, 8, 16]
"""

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]


@pytest.fixture(scope="session")
def image(engine):
    """Build the image as an air-gapped server does; the second time only what has changed is built."""
    if shutil.which("docker") is None or shutil.which("make") is None:
        pytest.skip("the image is built with docker and make, and one of them is not here")
    for target in ("wheelhouse", "image"):
        done = subprocess.run(["make", target, f"IMAGE={IMAGE}"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"make {target}: {done.stdout[-1000:]}{done.stderr[-3000:]}"
    return IMAGE


@pytest.fixture
def folders(tmp_path):
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)
    return tmp_path / "in", tmp_path / "out"


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    counts = ["--source", "0", "--target", "0", "--validation", "2"]
    made = CliRunner().invoke(main, ["phantom", "--out", str(folder), *counts, "--preset", "small", "--seed", "5"])
    assert made.exit_code == 0, made.output
    return folder


def start(engine, image, folders, *command, **more):
    volumes = {
        str(folders[0]): {"bind": "/input", "mode": "ro"},
        str(folders[1]): {"bind": "/output", "mode": "rw"},
    }
    return engine.containers.run(image, list(command) or None, detach=True, volumes=volumes, **(LOCKED_DOWN | more))


def finish(container):
    """Wait for a container's end; return exit code and log."""
    try:
        return container.wait(timeout=800)["StatusCode"], container.logs().decode()
    finally:
        container.remove(force=True)


def run(engine, image, folders, *command, **more):
    return finish(start(engine, image, folders, *command, **more))


def check_labels(folders):
    for scan in folders[0].iterdir():
        path = folders[1] / label_file(case_of(scan.name, TARGET_SUFFIX))
        assert read_geometry(path).same_place(read_geometry(scan), tolerance=1e-6)
        labels = sitk.ReadImage(str(path))
        assert labels.GetPixelID() == sitk.sitkUInt8
        assert set(np.unique(sitk.GetArrayViewFromImage(labels))) <= {0, 1, 2}
        assert path.stat().st_uid == 12345


class TestPredict:
    def test_phantoms(self, engine, image, phantoms, folders):
        shutil.copytree(phantoms / "target_validation", folders[0], dirs_exist_ok=True)
        code, log = run(engine, image, folders)
        assert code == 0, log
        assert len(list(folders[1].glob("*_Label.nii.gz"))) == 2
        assert "2/2 crossmoda_" in log
        check_labels(folders)

    def test_a_real_scan(self, engine, image, folders):
        if not REAL_SCAN.exists():
            pytest.skip(f"no real scan at {REAL_SCAN}")
        shutil.copy(REAL_SCAN, folders[0])
        code, log = run(engine, image, folders)
        assert code == 0, log
        check_labels(folders)

    def test_an_oblique_scan_and_a_bad_one(self, engine, image, folders):
        write_scan(folders[0] / "crossmoda_1_hrT2.nii.gz", direction=OBLIQUE)
        (folders[0] / "crossmoda_2_hrT2.nii.gz").write_bytes(b"no scan")
        code, log = run(engine, image, folders)
        assert code == 1
        assert "crossmoda_2_hrT2.nii.gz: expected" in log
        (folders[0] / "crossmoda_2_hrT2.nii.gz").unlink()
        check_labels(folders)

    def test_an_output_that_cannot_be_written(self, engine, image, folders):
        write_scan(folders[0] / "crossmoda_1_hrT2.nii.gz")
        folders[1].chmod(0o755)
        if folders[1].stat().st_uid == 12345:
            pytest.skip("this user is the container's")
        before = time.monotonic()
        code, log = run(engine, image, folders)
        assert code == 1
        assert "/output: expected a folder that this user can write to" in log
        # At once: the networks are not even loaded.
        assert time.monotonic() - before < 30

    def test_no_home_and_no_account(self, engine, image, folders):
        write_scan(folders[0] / "crossmoda_1_hrT2.nii.gz")
        environment = {"HOME": "/nonexistent", "USER": ""}
        code, log = run(engine, image, folders, environment=environment, user="54321")
        assert code == 0, log

    def test_a_volume_that_docker_makes(self, engine, image, folders):
        write_scan(folders[0] / "crossmoda_1_hrT2.nii.gz")
        volume = engine.volumes.create()
        try:
            code, log = run(engine, image, (folders[0], volume.name))
            assert code == 0, log
        finally:
            volume.remove(force=True)

    def test_cuda_asked_for_where_there_is_none(self, engine, image, folders):
        write_scan(folders[0] / "crossmoda_1_hrT2.nii.gz")
        code, log = run(engine, image, folders, "predict", "--device", "cuda")
        assert code == 1
        assert "Error: " in log
        assert "cuda" in log.lower()

    def test_an_empty_input(self, engine, image, folders):
        code, log = run(engine, image, folders)
        assert code == 1
        assert "/input: expected scans named {case}_hrT2.nii.gz, got an empty folder" in log

    def test_docker_stop_ends_it_at_once(self, engine, image, folders):
        write_scan(folders[0] / "crossmoda_1_hrT2.nii.gz", np.random.default_rng(0).normal(60, 10, (96, 256, 256)))
        container = start(engine, image, folders)
        for line in container.logs(stream=True):
            if line.startswith(b"1 scan in"):
                break
        before = time.monotonic()
        container.stop(timeout=20)
        code, log = finish(container)
        assert code == 143, log
        assert time.monotonic() - before < 20
        assert list(folders[1].iterdir()) == []


class TestGrandChallenge:
    """The same image, with the same command, where the folders are grand-challenge's."""

    def test_one_case(self, engine, image, phantoms, folders):
        scan = folders[0] / "images" / "t2-brain-mri" / "a.mha"
        scan.parent.mkdir(parents=True)
        sitk.WriteImage(sitk.ReadImage(str(next((phantoms / "target_validation").iterdir()))), str(scan))
        told = {"socket": {"slug": "t2-brain-mri", "relative_path": "images/t2-brain-mri"}, "image": {"name": "a.mha"}}
        (folders[0] / "inputs.json").write_text(json.dumps([told]))
        code, log = run(engine, image, folders, environment={"CROSSMODA_GRL_OUTPUT_SOCKET": "vs-and-cochlea"})
        assert code == 0, log
        path = folders[1] / "images" / "vs-and-cochlea" / "a.mha"
        assert read_geometry(path).same_place(read_geometry(scan), tolerance=1e-6)
        labels = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        assert set(np.unique(labels)) == {0, 1, 2}


class TestImage:
    def test_what_is_in_it(self, engine, image):
        script = """
import importlib.util, os, pathlib, sys
code = pathlib.Path("/opt/crossmoda-grl")
print("pip" if importlib.util.find_spec("pip") else "no pip")
print("dev" if importlib.util.find_spec("pytest") or importlib.util.find_spec("monai") else "no dev")
print(*[p for p in pathlib.Path("/").rglob("torch*.whl")], sep=",")
print(all(os.access(p, os.R_OK) for p in code.rglob("*")), any(os.access(p, os.W_OK) for p in code.rglob("*")
      if not p.is_symlink()))
import pipeline.inference.cli
print(pathlib.Path(pipeline.inference.cli.__cached__).exists())
from pipeline.model.shipped import weights_folder
print(sorted(p.name for p in weights_folder().glob("*.safetensors")))
"""
        container = engine.containers.run(image, ["-c", script], entrypoint="python", detach=True, **LOCKED_DOWN)
        code, log = finish(container)
        assert code == 0, log
        assert log.splitlines() == [
            "no pip",
            "no dev",
            "",
            "True False",
            "True",
            str(sorted(f"{structure.key}.safetensors" for structure in STRUCTURES)),
        ]

    def test_its_settings(self, engine, image):
        settings = engine.images.get(image).attrs["Config"]
        assert settings["User"] == "1000:1000"
        assert settings["Entrypoint"] == ["crossmoda-grl"]
        assert settings["Cmd"] == ["predict"]
        assert settings["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
        assert "MALLOC_MMAP_THRESHOLD_=4294967296" in settings["Env"]

    @pytest.mark.parametrize("command", [["evaluate", "score"], ["reproduce"]])
    def test_other_commands(self, engine, image, command):
        container = engine.containers.run(image, [*command, "--help"], detach=True, **LOCKED_DOWN)
        code, log = finish(container)
        assert code == 0
        assert "--reference" in log


def test_evaluate_run(image, phantoms, tmp_path):
    """The organisers' side runs the participant's image, and scores it."""
    folders = ["--input", str(phantoms / "target_validation"), "--output", str(tmp_path / "out")]
    folders += ["--reference", str(phantoms / "target_validation_reference")]
    limits = ["--memory", "6g", "--cpus", "1", "--per-case"]
    result = CliRunner().invoke(main, ["evaluate", "run", image, *folders, *limits])
    assert result.exit_code == 0, result.output
    assert "2 containers" in result.stdout
    assert "VS Dice" in result.stdout


class TestCompose:
    def compose(self, *arguments, **environment):
        command = ["docker", "compose", *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def test_predict_and_evaluate(self, image, phantoms, tmp_path):
        folders = {"INPUT": phantoms / "target_validation", "REFERENCE": phantoms / "target_validation_reference"}
        for name in ("OUTPUT", "SCORES"):
            folders[name] = tmp_path / name.lower()
            folders[name].mkdir()
            folders[name].chmod(0o777)
        environment = {name: str(path) for name, path in folders.items()}
        environment |= {"IMAGE": image, "RUN_AS": f"{os.getuid()}:{os.getgid()}"}
        self.compose("run", "--rm", "-e", "OMP_NUM_THREADS=1", "predict", **environment)
        assert len(list(folders["OUTPUT"].glob("*_Label.nii.gz"))) == 2
        done = self.compose("run", "--rm", "evaluate", **environment)
        assert "VS Dice" in done.stdout
        assert len((folders["SCORES"] / "scores.csv").read_text().splitlines()) == 3
        assert (folders["SCORES"] / "scores.json").exists()

    def test_up_starts_the_search_and_nothing_else(self, engine):
        services = {
            profile: self.compose("--profile", profile, "config", "--services").stdout.split()
            for profile in ("tune", "once")
        }
        assert sorted(services["tune"]) == ["dashboard", "postgres", "tune"]
        assert {"predict", "evaluate", "train"} <= set(services["once"])
        assert self.compose("config", "--services").stdout.split() == []

    def test_train_killed_and_gone_on_with(self, engine, image, tmp_path):
        """Both phases of both structures on phantoms, without a GPU, network or account, as a user who owns nothing."""
        data, runs = tmp_path / "data", tmp_path / "runs"
        counts = ["--source", "3", "--target", "2", "--validation", "0"]
        made = CliRunner().invoke(main, ["phantom", "--out", str(data), *counts, "--seed", "5"])
        assert made.exit_code == 0, made.output
        (data / "tiny.toml").write_text(TINY)
        runs.mkdir()
        runs.chmod(0o777)
        environment = {"COMPOSE_FILE": "docker-compose.yml:docker-compose.cpu.yml", "IMAGE": image}
        environment |= {"DATA": str(data), "RUNS": str(runs), "RUN_AS": "12345:12345"}
        options = ["--recipe", "cpu", "--config", "/data/tiny.toml", "--validation-cases", "1"]
        command = ["run", "--rm", "-e", "OMP_NUM_THREADS=1", "train", *options]
        name = f"crossmoda-grl-test-{os.getpid()}"
        first = subprocess.Popen(
            ["docker", "compose", command[0], "--name", name, *command[1:]],
            cwd=ROOT, env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        log = []
        for line in first.stderr:
            log.append(line)
            if "VS supervised: epoch 1" in line:
                engine.containers.get(name).kill()
        assert first.wait() == 137, "".join(log)

        done = self.compose(*command, **environment)
        assert "VS supervised: 2 epochs of 2 batches, resumed after epoch 1" in done.stderr
        assert done.stdout.splitlines() == ["/runs/vs/summary.md", "/runs/cochlea/summary.md"]
        exporter = ["run", "--rm", "--entrypoint", "crossmoda-grl", "train"]
        self.compose(*exporter, "export", "/runs", "--out", "/runs/weights", **environment)
        for structure in STRUCTURES:
            segmenter = load_segmenter(runs / "weights", structure, torch.device("cpu"))
            assert segmenter.card["data"]["kind"] == "phantom"
            assert segmenter.card["version"] == version("crossmoda-grl")
            assert segmenter.card["commit"] is None  # the image holds no repository
        assert {path.stat().st_uid for path in runs.rglob("*")} == {12345}

    def test_what_reserves_a_gpu(self, image):
        def files(*names):
            return [part for name in names for part in ("-f", name)]

        reserved = "capabilities:\n                - gpu"
        for service in ("predict", "evaluate"):
            assert "gpu" not in self.compose("config", service).stdout
        predict = self.compose(*files("docker-compose.yml", "docker-compose.gpu.yml"), "config", "predict").stdout
        train = self.compose("config", "train").stdout
        for laid_out in (predict, train):
            assert reserved in laid_out
            assert "TORCH: cuda" in laid_out
        without = self.compose(*files("docker-compose.yml", "docker-compose.cpu.yml"), "config", "train").stdout
        assert "gpu" not in without
        assert "TORCH: cpu" in without
