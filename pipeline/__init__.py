"""The participant's side: phantoms, training, prediction. Of `evaluation` it uses metrics and outlines."""
