"""Our own stack on packed rows: embedding, positions, blocks, norms, MLPs, pooling.

block        one block: W_Q, W_K, W_V, W_O, norms, residuals and feed-forward, on rows of many sequences
block_outputs  what is collected once a block is done: points, hidden, pooled, predictions
calibration  what a model runs before it serves, and before its weights are kept in int8
dtypes       what weights may be kept in, by the device
embedding    what enters the first block: word, position and type embeddings
finish       what a block does after its attention as one call of compiled code
graphs/      blocks of small batches as CUDA graphs: what is recorded, for which shapes, and replayed
layers/      a layer of a batch: its plan and its attention
linear       one linear layer, with the fastest kernel the machine has: chosen by a probe at load
mlp          linear, activation, linear: what a projection can be, and the feed-forward network of a block
norm         layer norm and root-mean-square norm over the rows of a block
pooling      one vector from the rows of a sequence, and what follows it, as sentence-transformers' modules do
positions    tables added to embeddings, biases on the scores
rates        how fast each pair of numbers turns with the position: plain and stretched rotary positions
rotary       rotations of q and k, from tables of angles
rowwise/     elementwise work of a block on a GPU, in kernels of our own: one launch for several
stack        a whole model on packed rows: embeddings, blocks, pooling; ragged in, ragged out
"""
