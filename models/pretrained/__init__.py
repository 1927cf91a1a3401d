"""Other people's architectures with our attention inside: read, intercepted, probed before they are served.

entry          where the first layer of a model begins: what enters it is the output `embedded`
foreign_steps  steps of a forward pass that is another library's code: it cannot yield, only call
interception   the attention that models of another library call, in place of their own
loading        whole models of any architecture that `transformers` has, from a folder
probe          what a model must show before it is served: that every attention in it is ours, and right
probe_edits    which edits a model can have: those that come out as eager attention has them
probe_runs     the runs that a probe compares: eager attention, that with its rounding moved, and ours
probe_samples  what a probe gives to a model: ordinary sequences, odd, masked and long ones
tower          a model of another library, run on batches of Items: what `Stack` is to our own encoder
weights        a folder's model as transformers reads it: configuration, bare class, every parameter
words          words predicted by a model's class with a head, over the bare model that is loaded
"""
