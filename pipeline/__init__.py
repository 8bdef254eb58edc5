"""The participant's side: phantoms, training, prediction. Of `evaluation` it uses contract, images and metrics."""
