"""How long it takes to read a scan: ours, which checks, against nibabel and ITK, which do not.

python benchmarks/reading.py
"""

import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk

from challenge.nifti import read_image, write_image

SHAPE = (80, 448, 448)  # a scan of 33 MB
REPEATS = 5


def main() -> None:
    """Write a scan, read it with each reader, and print the shortest times."""
    rng = np.random.default_rng(0)
    image = sitk.GetImageFromArray(rng.normal(300, 40, SHAPE).astype(np.int16))
    image.SetSpacing((0.46, 0.46, 1.5))
    readers = {
        "read_image, checked": read_image,
        "SimpleITK alone": lambda path: sitk.ReadImage(str(path)),
        "nibabel alone": lambda path: np.asanyarray(nibabel.load(path).dataobj),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.nii.gz"
        write_image(image, path)
        print(f"{path.stat().st_size / 2**20:.1f} MB compressed, {np.prod(SHAPE) * 2 / 2**20:.1f} MB of voxels")
        for name, read in readers.items():
            times = []
            for _ in range(REPEATS):
                started = time.perf_counter()
                read(path)
                times.append(time.perf_counter() - started)
            print(f"{name:20} {min(times) * 1000:6.0f} ms")


if __name__ == "__main__":
    main()
