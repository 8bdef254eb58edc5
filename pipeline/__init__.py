"""The participant's side: phantoms, training and prediction. Of `evaluation` it uses only contract, images and metrics."""
