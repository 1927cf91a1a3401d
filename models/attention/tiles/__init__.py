"""Attention of ragged sequences on a GPU in kernels of our own, in Triton: z and what is made beside it.

Scores are made in tiles and never written: z, logsumexp, entropy and the largest weights come of one pass
over the keys; sums over rows and heads, and weights themselves, of one more each. Every rule is there: bands,
softcap, masks, biases, sinks, grouped heads. Triton comes with torch for CUDA; nothing of this room is
imported before a GPU is there (`launch` and `table` need torch alone).

asking   what sequences ask of kernels, and which of them ask for the same
backend  which sequences kernels take, and how a group is given to them
choice   with which tiles a kernel is compiled
forward  z, logsumexp, entropy and the largest weights, in one kernel
launch   a group of sequences: which kernels are launched, with which tiles
lists    the largest weights of each row, kept while keys go by
lse      logsumexps of packed rows, put where those of each sequence go
results  where a launch puts what it makes: where the answers are gathered, or in memory of its own
scores   scores of a tile and where a sequence stands, which all kernels share
table    where sequences stand, their masks and biases, as the kernels read it
trial    whether the kernels run on a device, and agree there with what is written
weights  weights as they are, summed over rows, over heads
"""
