"""Elementwise work of a block on a GPU in kernels of our own, in Triton: one launch and one pass for several.

Read once, computed in float32, rounded once. Triton comes with torch for CUDA; nothing of this room imports
it before a GPU is there (`choice`, `launch` and `trial` need torch alone).

choice   with which tiles a kernel is compiled
gates    an activation, times what it gates
launch   kernels launched on tensors as they are: strides, new tensors, what each is compiled for
norms    a residual added up, and norms before and after
trial    whether a kernel runs on a device, and agrees there with what is written
turning  q and k normalised and turned by their positions
"""
