"""Text into tokens: tokenizers made of a folder's files, tried before they are trusted.

bounds                  what a tokenizer can make of a text at the most, by what its file says
build                   a tokenizer made of its files: vocabulary, rules of its class, added tokens
calls                   calls of the `tokenizers` package, guarded, and without the lock where they are long
classes                 the tokenizer classes of transformers whose rules are known here, in one table
cut                     which tokens of a text are left when it is cut
examples                texts that a folder gives as examples, for the Explorer page
files                   what the files of a tokenizer say, and which class's rules it goes by
reading                 texts as a model reads them, by what its card says
rules                   what transformers' tokenizer classes do to a text
safe                    a tokenizer of its files, or the reason why it is not trusted with this process
tokenizer               the tokenizer of a model: text into ids, types, tokens and offsets
transformers_tokenizer  a tokenizer as transformers makes it, for classes whose rules are not known here
trial                   a tokenizer tried in a process of its own, under limits of time and memory
"""
