"""Nothing that serves: learning a small causal model, and the demo models.

checkpoint       one safetensors file that training can be taken up from
corpus           a text file as training reads it: a tokenizer of its words, pieces of ids, batches
demo             puts the demo models into a repository: `python -m models.training.demo repository`
demo_attention/  the committed demo model, and the record of how it was learned
grammar          a small generative grammar of English: the text that `demo-attention` learned from
language         the training-time forward of a ModelSpec
plan             what decides how `heed train` learns: the model, the text's cutting, the optimizer
train            learning Q, K and V by backpropagation on next-token prediction over a text
"""
