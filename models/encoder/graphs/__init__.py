"""Blocks of a stack as CUDA graphs: on a GPU a small batch takes as long as the host launches its kernels.

A graph is of one layer, or of all, for batches of up to so many tokens, sequences, and tokens of a sequence.
It is made when a model is loaded, for each slot, as long as the device is quicker than the host; larger
batches, and layers in which more is asked than what the block gives, go launch by launch.

blocks   one block from what enters it to what leaves it, where nothing of what is between is asked for
frame    the memory that graphs of one shape read: rows, where sequences begin, angles
making   graphs are recorded, tried against what they recorded, and timed
replays  which layers of a batch are a graph's, and their replaying
shapes   for how many tokens and sequences there are graphs
"""
