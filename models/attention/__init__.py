"""Attention: its mathematics, who computes it, and everything that is made of it but z.

asked          what is asked of one layer of a sequence, and what of it can be made on the way to z
backends       the table of backends, and the plan of a batch: which of them computes which sequences
blocks         scores and weights in row blocks of bounded size
compiled       the backend of our own C: every rule, and sequences of any length
groups         neighbours that one backend computes under one rule, and what is done with its result
lengths        how long values are, as they are and through W_O
masks          which keys a query may attend, and what is added to their scores
problem        one sequence's attention, checked and ready to be computed
qkv            attention on queries, keys and values that the caller brings
ragged/        the backend of a GPU's kernels
reductions     every output but z, from weights or from q and k
reference      the backend that computes everything, by torch
sdpa           z by torch's own kernel, where the rule allows it, and when its answer may be believed
sequence       one input on its way through a model, and what is collected of it
spans          weights summed between spans of tokens
sums/          what is summed of weights while rows are walked: over heads, spans and diagonals
tiles/         the backend of a GPU's kernels of our own: every rule, and what is made beside z
torch_private  every function of torch that is private
"""
