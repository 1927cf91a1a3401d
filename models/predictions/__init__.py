"""Which words a model predicts: log-probabilities of all of them, of which a few are kept.

head        what is done to a block's rows before a table reads them: norms, a masked-language head
likeliest   over all words of some rows, a block of each at a time: the sum, the likeliest, those asked for
of_folder   a model's predictions as its folder has them, or why it has none
predicting  what sequences ask for at a layer, collected
table       scores of words: rows times a table, by blocks
"""
