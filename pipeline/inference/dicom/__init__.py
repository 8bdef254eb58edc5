"""DICOM: a folder of MR slices in, a segmentation out. Needs the extra `dicom`, and is imported when asked for."""
