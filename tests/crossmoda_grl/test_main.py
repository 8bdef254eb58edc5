import os
import subprocess
import sys
from importlib.metadata import version

import pytest
from click.testing import CliRunner

from crossmoda_grl.__main__ import COMMANDS, main
from pipeline.runtime.allocator import keep_large_blocks
from tests.images import write_scan

ARRAYS_MB = 64


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name):
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: main {name}")


def test_help_lists_the_commands_without_importing_them():
    code = "import sys; from crossmoda_grl.__main__ import main; main(['--help'], standalone_mode=False); "
    code += "assert not {'torch', 'pipeline', 'evaluation'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)


def test_the_shell_completes_commands_and_values_without_torch():
    code = "import sys; from crossmoda_grl.__main__ import main\ntry: main(prog_name='crossmoda-grl')\nfinally: "
    code += "assert 'torch' not in sys.modules"
    for words, expected in (
        ("crossmoda-grl p", "predict picture phantom"),
        ("crossmoda-grl predict --device c", "cpu cuda"),
    ):
        asked = {"_CROSSMODA_GRL_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        done = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == [f"plain,{word}" for word in expected.split()]


def test_version_is_the_installed_one():
    assert CliRunner().invoke(main, ["--version"]).stdout == f"main, version {version('crossmoda-grl')}\n"


def test_unknown_command_is_a_usage_error():
    result = CliRunner().invoke(main, ["segment"])
    assert result.exit_code == 2
    assert "No such command 'segment'" in result.stderr


def test_missing_package_is_named_with_what_to_install(tmp_path):
    code = "import sys; sys.modules['torch'] = None; from crossmoda_grl.__main__ import main; "
    code += "main(['predict', *sys.argv[1:]])"
    write_scan(tmp_path / "crossmoda_1_hrT2.nii.gz")
    done = subprocess.run(
        [sys.executable, "-c", code, "--input", tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "predict: needs the package torch, which is not installed; install it with: pip install" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("shadow", ["evaluation.py", "pipeline.py", "challenge/__init__.py"])
def test_a_users_module_that_shadows_a_package_is_named(tmp_path, shadow):
    file = tmp_path / shadow
    file.parent.mkdir(exist_ok=True)
    file.write_text("raise SystemExit('imported the wrong module')\n")
    command = [sys.executable, "-m", "crossmoda_grl", "evaluate", "score", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    package = shadow.split("/")[0].removesuffix(".py")
    assert f"Error: {file}: expected Python to import {package} from " in done.stderr
    assert "which shadows it; rename or move the file" in done.stderr
    assert "install" not in done.stderr
    file.unlink()
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).returncode == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_blocks_stay_with_the_process():
    """By default glibc gives 64 MB back at once; told to keep large blocks it hands the same memory out again."""
    code = f"""
import resource, sys
import numpy as np
from pipeline.runtime.allocator import keep_large_blocks
if sys.argv[1] == "keep":
    assert keep_large_blocks()
for _ in range(20):
    np.ones({ARRAYS_MB} * 2**20, dtype=np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""

    def page_faults(mode):
        environment = {"PATH": "/usr/bin:/bin", "NUMPY_MADVISE_HUGEPAGE": "0"}
        done = subprocess.run(
            [sys.executable, "-c", code, mode], capture_output=True, text=True, check=True, env=environment
        )
        return int(done.stdout)

    if page_faults("default") < 20 * ARRAYS_MB * 2**20 / 4096 / 2:
        pytest.skip("this C library or kernel does not fault 4 kB pages in")
    assert page_faults("keep") < page_faults("default") / 4


def test_allocator_can_be_told_twice():
    assert keep_large_blocks() == keep_large_blocks()
