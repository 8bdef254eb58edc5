"""Scans and label maps: found, read, preprocessed, cut into windows and training patches."""
