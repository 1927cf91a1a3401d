"""Text into tokens: tokenizers made of a folder's files, tried before they are trusted.

bounds                  what a tokenizer can make of a text at the most, read from what it is made of,
                        before it is ever used
build                   A tokenizer made of what its files say: vocabulary, rules of its class, special and
                        added tokens
classes                 the tokenizer classes of transformers whose rules are known here, in one table
cut                     which tokens of a text are left when it is cut, as the `tokenizers` package cuts
files                   what the files of a tokenizer say, and whose rules it goes by: transformers 5 has a
                        class for each kind
rules                   what transformers' tokenizer classes do to a text, said with the `tokenizers`
                        package alone
safe                    A tokenizer made of its files, or a reason why it is not trusted with this process
tokenizer               text into tokens, with the `tokenizers` package and the model's own tokenizer files
transformers_tokenizer  A tokenizer as transformers makes it, for classes whose rules are known to
                        transformers alone
trial                   A tokenizer tried before it is held: in a process of its own, under limits of time
                        and memory
"""
