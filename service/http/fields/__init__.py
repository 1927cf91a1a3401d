"""Fields of a request, resolved against a model and a sequence: heads, positions, arrays, edits.

addresses     how heads, positions and spans may be written in a request: the types of fields
apart         options that stand apart from tensors, edits among them: put to the inputs they are of
arrays        ids, vectors and masks, checked against each other and against a model
edit_schemas  edits of attention as callers write them: their form, and how it is documented
edits         edits of attention, resolved: verbs that the model offers, heads, positions, shapes
heads         heads: numbers, pairs of layer and head, pairs with weights, or the name of a set
mixing        what the outputs `mixed` and `share` are of: which heads, summed over which keys
positions     positions on one axis: numbers, ranges, names of spans, and all but some of them
predictions   words that a request asks about, and those that a reply names
"""
