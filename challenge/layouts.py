"""Layouts: how folders of scans and label maps are named, one record each.

`crossmoda2021` is the contract of `challenge.contract`. The others say what differs. A command takes them by name, in
`--layout`.

Sources: the organisers' `docker_submission` repository and their page of 2023; the documentation of grand-challenge.org
("Create your own algorithm", "Evaluation method"); nnU-Net's `documentation/dataset_format.md`.
"""

from dataclasses import dataclass, replace

from challenge.contract import COCHLEA, LABEL_SUFFIX, STRUCTURES, TARGET_SUFFIX, VS, Structure

# 2023 tells two parts of the tumour apart. The whole tumour is scored too.
EXTRAMEATAL = Structure("extrameatal", "Extra-meatal VS", 1)
INTRAMEATAL = Structure("intrameatal", "Intra-meatal VS", 2)
WHOLE_VS = Structure("vs", "VS", 1, also=(2,))
COCHLEA_OF_2023 = Structure("cochlea", "Cochlea", 3)

SEGMENTATION_SUFFIX = "_Label.dcm"


@dataclass(frozen=True)
class FolderLayout:
    """How a folder of scans, and one of label maps, are named and filled.

    Attributes:
        name: of the layout, in `--layout`.
        scan_suffix: of a scan's file name, after its case.
        label_suffix: of a label map's; its ending is the format in which label maps are written.
        scan_folder: where scans lie, below the input folder; empty for the folder itself.
        label_folder: where label maps go, below the output folder.
        values: the voxel values that `predict` writes, in the order of `STRUCTURES`.
        scored: what `evaluate` scores.
        note: what the user of `predict` has to know about the label maps; empty if nothing.
        one_case: whether a run has exactly one case.
        dicom: whether a scan is a folder of a DICOM series, and a DICOM segmentation is written beside its label map.
    """

    name: str
    scan_suffix: str = TARGET_SUFFIX
    label_suffix: str = LABEL_SUFFIX
    scan_folder: str = ""
    label_folder: str = ""
    values: tuple[int, ...] = (VS.label, COCHLEA.label)
    scored: tuple[Structure, ...] = STRUCTURES
    note: str = ""
    one_case: bool = False
    dicom: bool = False

    def label_file(self, case: str) -> str:
        """Name the label map of a case, with its folder below the output folder."""
        folder = f"{self.label_folder}/" if self.label_folder else ""
        return folder + case + self.label_suffix

    def segmentation_file(self, case: str) -> str:
        """Name the DICOM segmentation of a case."""
        return self.label_file(case).removesuffix(self.label_suffix) + SEGMENTATION_SUFFIX

    @property
    def value_of(self) -> dict[int, int]:
        """The voxel value that stands for each label of `STRUCTURES`."""
        return {structure.label: value for structure, value in zip(STRUCTURES, self.values, strict=True)}

    def in_format(self, ending: str) -> "FolderLayout":
        """Return the layout with files of another format, as in `.nii.gz`."""
        own = self.scan_suffix[self.scan_suffix.index(".") :]
        return replace(
            self,
            scan_suffix=self.scan_suffix.removesuffix(own) + ending,
            label_suffix=self.label_suffix.removesuffix(own) + ending,
        )


CROSSMODA_2021 = FolderLayout("crossmoda2021")
CROSSMODA_2023 = FolderLayout(
    "crossmoda2023",
    scan_suffix="_T2.nii.gz",
    label_suffix=".nii.gz",
    values=(EXTRAMEATAL.label, COCHLEA_OF_2023.label),
    scored=(EXTRAMEATAL, INTRAMEATAL, WHOLE_VS, COCHLEA_OF_2023),
    note="label 2 (intra-meatal VS) is not written: the networks do not tell the two parts of the tumour apart, and "
    "nobody should guess; the whole tumour is label 1, the cochlea 3",
)
# The folders are named after the platform's sockets; `pipeline.inference.inputs` finds them.
GRAND_CHALLENGE = FolderLayout(
    "grand-challenge",
    scan_suffix=".mha",
    label_suffix=".mha",
    scan_folder="images",
    label_folder="images",
    one_case=True,
)
NNUNET = FolderLayout(
    "nnunet",
    scan_suffix="_0000.nii.gz",
    label_suffix=".nii.gz",
    scan_folder="imagesTs",
)
# A case is a folder; its files have any names. The networks' label maps are named as in 2021.
DICOM = FolderLayout("dicom", scan_suffix="/", dicom=True)

LAYOUTS = {layout.name: layout for layout in (CROSSMODA_2021, CROSSMODA_2023, GRAND_CHALLENGE, NNUNET, DICOM)}
DEFAULT_LAYOUT = CROSSMODA_2021.name
