"""The organiser's side: scores, ranks and reports submissions, and runs their images. No `pipeline`, no torch."""
