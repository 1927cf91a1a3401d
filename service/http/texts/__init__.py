"""Texts of a request: read into tokens, where that is done, and spans of words.

axes     queries and keys of one input, with the spans that callers have named there
late_chunking  `late_chunking` of `/v1/embeddings`: chunks of one text, run once and pooled by chunk
places   threads on which long texts are tokenized: few at a time, so that memory and cores are left for the
         rest
inputs   the `input` of `/v1/embeddings`: a text or token ids, or a list of either
reading  one text of a request into tokens: what limits it, and whose fault it is when it cannot be read
spans    from words, or ranges of characters, to ranges of tokens
"""
