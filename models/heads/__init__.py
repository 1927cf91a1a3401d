"""Head sets: short lists of (layer, head) pairs that do one thing, kept in a model folder under a name.

formats  other people's files of head sets, each read into the same words
reading  `head_sets.json` of a model folder: read strictly, and resolved against the model beside it
sets     a head set as callers may name it, and what a mixture of its heads is
writing  `head_sets.json` written: new sets beside those that are there, whole or not at all
"""
