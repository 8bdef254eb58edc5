"""The packages, and the weights as package data; everything else is in pyproject.toml, which cannot say both."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["challenge*", "crossmoda_grl*", "evaluation*", "pipeline*"]), "pipeline.weights"],
    package_dir={"pipeline.weights": "weights"},
)
