"""The organiser's side: score, rank and report submissions, and run their images. Knows nothing of `pipeline` and needs no torch."""
