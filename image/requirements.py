"""Print what the image needs, one requirement a line, as pyproject.toml names it; arguments are further extras.

The image installs these before it copies the code, so that a change of the code does not install torch again.
It segments NIfTI files and DICOM series.
"""

import sys
import tomllib

with open("pyproject.toml", "rb") as file:
    pyproject = tomllib.load(file)
project = pyproject["project"]
runtime = [*project["dependencies"]]
for extra in ["segmentation", "dicom", *sys.argv[1:]]:
    runtime += [need for need in project["optional-dependencies"][extra] if not need.startswith(project["name"])]
print(*runtime, *pyproject["build-system"]["requires"], sep="\n")
