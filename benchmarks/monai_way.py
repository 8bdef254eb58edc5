"""A folder of scans to label maps as a MONAI user would write it: the peer of `predict` in the other benchmarks.

Dictionary transforms, `sliding_window_inference`, eager torch, the shipped weights, glibc's default allocator. Prints
its seconds without imports, and its peak of memory, as JSON.
"""

import time
from pathlib import Path

import click
import torch
from monai.data import DataLoader, Dataset, decollate_batch
from monai.inferers import sliding_window_inference
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    NormalizeIntensityd,
    SaveImaged,
    Spacingd,
)
from side_by_side import say

from challenge.contract import STRUCTURES
from pipeline.model.shipped import weights_folder
from pipeline.model.weights import load_segmenter


@click.command()
@click.option("--input", "input_folder", type=click.Path(path_type=Path), required=True)
@click.option("--output", "output_folder", type=click.Path(path_type=Path), required=True)
@click.option("--weights", default=None)
@click.option("--overlap", type=float, default=0.25)
@click.option("--batch", type=int, default=1, help="sw_batch_size.")
def main(
    input_folder: Path,
    output_folder: Path,
    weights: str | None,
    overlap: float,
    batch: int,
) -> None:
    """Segment a folder with MONAI."""
    started = time.perf_counter()
    device = torch.device("cpu")
    segmenters = [load_segmenter(weights_folder(weights), structure, device) for structure in STRUCTURES]
    before = Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Spacingd("image", pixdim=(0.5, 0.5, 0.5), mode="bilinear"),
            NormalizeIntensityd("image"),
        ]
    )
    keys = [structure.key for structure in STRUCTURES]
    after = Compose([Invertd(keys, before, orig_keys="image", nearest_interp=False, to_tensor=True)])
    where = {"output_dir": str(output_folder), "separate_folder": False, "output_postfix": ""}
    save = SaveImaged("labels", **where, print_log=False)
    files = [{"image": str(path)} for path in sorted(input_folder.glob("*.nii.gz"))]
    for data in DataLoader(Dataset(files, before), batch_size=1):
        for s in segmenters:
            with torch.inference_mode():
                data[s.structure.key] = sliding_window_inference(
                    data["image"],
                    roi_size=(s.window,) * 3,
                    sw_batch_size=batch,
                    predictor=lambda windows, s=s: s.network(windows).softmax(1)[:, 1:],
                    overlap=overlap,
                    mode="gaussian",
                )
        for case in decollate_batch(data):
            inverted = after(case)
            vs, cochlea = (inverted[key] for key in keys)
            inverted["labels"] = torch.where((vs <= 0.5) & (cochlea <= 0.5), 0, torch.where(vs >= cochlea, 1, 2))
            inverted["labels"].meta.update(inverted["image"].meta)
            save(inverted)
    say(time.perf_counter() - started)


if __name__ == "__main__":
    main()
