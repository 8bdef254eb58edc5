"""Memory, the GPU, and several processes that train one network."""
