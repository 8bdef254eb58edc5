"""Print what the image needs, one requirement a line, as pyproject.toml names it.

The image installs these before it copies the code, so that a change of the code does not install torch again.
"""

import sys
import tomllib

with open(sys.argv[1] if len(sys.argv) > 1 else "pyproject.toml", "rb") as file:
    pyproject = pyproject["project"]
runtime = project["dependencies"] + project["optional-dependencies"]["segmentation"]
print(*runtime, *pyproject["build-system"]["requires"], sep="\n")
