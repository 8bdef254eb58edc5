"""The organiser's side: score, rank and report submissions, run their images. Knows no `pipeline`, needs no torch."""
