"""What there is to train on and to predict: scans, preprocessed volumes, windows, training patches."""
