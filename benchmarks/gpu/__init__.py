"""On a GPU: what kernels there are, a layer, and whole models, against bare torch on the same device."""
