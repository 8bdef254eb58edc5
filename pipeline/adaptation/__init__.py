"""What adapts a network to the target beyond the paper, one arm a module."""
