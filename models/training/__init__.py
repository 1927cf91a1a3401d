"""Nothing that serves: learning a small causal model, and the demo models.

checkpoint  one file that training can be taken up from: named tensors and a JSON state, safetensors, never
            pickle
corpus      A text file as training reads it: a tokenizer made from its words, pieces of token ids, batches
            of them
demo        puts the demo models into a model repository: `python -m models.training.demo repository`
demo_attention/
            the committed demo model, and the record of how it was learned
grammar     A small generative grammar of English: the text that `demo-attention` learned from
language    the small causal language model that `heed train` learns: the training-time forward of a
            ModelSpec
plan        what decides how `heed train` learns: the model to make, the text's cutting, the optimizer's
            numbers
train       learning Q, K and V by backpropagation on next-token prediction over a text
"""
