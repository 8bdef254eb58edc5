"""What the participant's and the organiser's side share: contract, NIfTI files, atomic writes, signals. No torch."""
