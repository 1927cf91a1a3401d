"""The backend of a GPU: attention of many sequences that stand one after another, as one call of a kernel.

batch    where each sequence of a group begins, on the device: once for each set of sequences
choice   which kernel there is for heads of a width: each is tried before it is believed
kernels  torch's two, FlashAttention and the memory-efficient one

A kernel is a function of q [N, H, d], k and v [N, G, d] and a `Batch`, with `scale` and `causal`, that gives
an AttentionResult: z [N, H, d], and logsumexps of each sequence and packed. What one makes beside z goes
where the answers are gathered (`models/device/`), for all sequences of a group together.
"""
