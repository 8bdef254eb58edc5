"""Names of files by the contract, and names that are nearly right."""

from challenge.contract import near_misses


def test_near_misses_are_images_of_cases_without_a_scan():
    names = ["a_T2.nii.gz", "b_hrT2.nii", "c-t2w.NRRD", "d.mha", "e_hrT2.NII.GZ", "f_ceT1.nii.gz", "g_label.nii"]
    names += ["._a_hrT2.nii", "notes.txt", "crossmoda_1_flair.nii.gz", "crossmoda_10_T2.nii.gz"]
    assert near_misses(names, ["crossmoda_1"]) == {
        "a_T2.nii.gz": "rename it to a_hrT2.nii.gz",
        "b_hrT2.nii": "compress it to b_hrT2.nii.gz",
        "c-t2w.NRRD": "convert it to c_hrT2.nii.gz",
        "d.mha": "convert it to d_hrT2.nii.gz",
        "e_hrT2.NII.GZ": "rename it to e_hrT2.nii.gz",
        "crossmoda_10_T2.nii.gz": "rename it to crossmoda_10_hrT2.nii.gz",
    }
