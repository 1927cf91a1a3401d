"""Other people's architectures with our attention inside: read, intercepted, probed before they are served.

entry          where the first layer of another library's model begins: what enters it is the output
               `embedded`
foreign_steps  steps of a forward pass that is another library's code: it cannot yield, only call what
               waits
interception   the attention that whole models of another library are given to call, so that ours takes its
               place
loading        whole models of any architecture that `transformers` has, with this project's attention
               inside
probe          what a whole model must show before it is served: that every attention in it is ours, and
               right
probe_rows     how long a probe must be: past every number of a configuration that may be a position
probe_runs     the runs that a probe compares: the library's eager attention, that with its rounding moved,
               and ours
probe_samples  what a probe gives to a model: ordinary sequences, odd ones, and masked ones, as ids or as
               embeddings
tower          a whole model built by another library, run on batches of Items: what Stack is to our own
               encoder
weights        a folder's model as transformers reads it: configuration, bare class, and every parameter
               from the file
"""
