"""What both sides stand on: names, labels and folders, NIfTI files, files written whole, signals. Needs no torch."""
