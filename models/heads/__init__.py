"""Head sets: short lists of (layer, head) pairs that do one thing, kept in a model folder under a name.

sets  a head set as callers may name it, and what a mixture of its heads is
"""
