"""The `crossmoda-grl` command, and `reproduce`, which joins both sides."""
