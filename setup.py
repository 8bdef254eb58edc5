"""What pyproject.toml cannot express: the packages, weights/ as package data, and NiiVue, which is fetched."""

import runpy

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py


class BuildWithNiiVue(build_py):
    """Fetches NiiVue beside the page of `crossmoda-grl view`. Without it everything else works, and is installed."""

    def run(self) -> None:
        """Fetch NiiVue, or warn, and build."""
        niivue = runpy.run_path("pipeline/inference/viewer/niivue.py")
        try:
            niivue["fetch"]()
        except niivue["NiiVueError"] as error:
            self.warn(f"crossmoda-grl view will not work: {error}")
        super().run()


setup(
    packages=[*find_packages(include=["challenge*", "crossmoda_grl*", "evaluation*", "pipeline*"]), "pipeline.weights"],
    package_dir={"pipeline.weights": "weights"},
    cmdclass={"build_py": BuildWithNiiVue},
)
