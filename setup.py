"""The list of packages, and the folder weights/ as package data in `pipeline`; pyproject.toml cannot express both."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["challenge*", "crossmoda_grl*", "evaluation*", "pipeline*"]), "pipeline.weights"],
    package_dir={"pipeline.weights": "weights"},
)
