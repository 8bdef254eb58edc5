"""Print what the image needs, one requirement a line, as pyproject.toml names it.

The image installs these before it copies the code, so that a change of the code does not install torch again.
"""

import tomllib

with open("pyproject.toml", "rb") as file:
    pyproject = tomllib.load(file)
project = pyproject["project"]
runtime = project["dependencies"] + project["optional-dependencies"]["segmentation"]
print(*runtime, *pyproject["build-system"]["requires"], sep="\n")
