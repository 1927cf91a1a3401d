"""One layer of a batch that goes through a stack: its plan, and its attention.

attention  W_Q, W_K, W_V, positions, attention and W_O of a layer, a group of a batch at a time
plans      who computes attention in each layer, which blocks are one call, who takes z from whom
"""
