"""Fields of a request, resolved against a model and a sequence: heads, positions, arrays.

addresses    how heads, positions and spans may be written in a request: the types of fields
arrays       ids, vectors and masks, checked against each other and against a model
heads        heads: numbers, pairs of layer and head, pairs with weights, or the name of a set
mixing       what the outputs `mixed` and `share` are of: which heads, summed over which keys
positions    positions on one axis: numbers, ranges, names of spans, and all but some of them
predictions  words that a request asks about, and those that a reply names
"""
