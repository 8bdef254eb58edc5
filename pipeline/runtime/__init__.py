"""Memory, devices, and training in several processes."""
