"""Adaptation to the target domain beyond the paper; each method is a module."""
