"""Edits of a sequence's attention, carried out: on scores, on weights and on z, layer by layer.

heads     z of heads: set, taken from another sequence, scaled
layer     what the edits of one sequence come to in each layer
patterns  weights that take the place of those of the softmax, a block of rows at a time
ranges    where edits are: rows and keys by ranges
scores    what is added to scores, and which keys are blocked, a block of rows at a time
table     a layer's edits as compiled code takes them
"""
