"""Reading model folders: what a folder declares, what its tensors are called, and its weights.

examples            texts that a model's folder gives as examples: what a page offers to a first visitor
families            A model folder, read and understood: what it specifies and where its weights and
                    tokenizer are
huggingface         what each Hugging Face `model_type` is: its `config.json` translated into a ModelSpec by
                    a table
huggingface_fields  readers of single fields of a Hugging Face `config.json`, with transformers' defaults
                    and older spellings
huggingface_known   fields of a Hugging Face `config.json` that are known to change no number that is served
huggingface_names   what the Hugging Face families call their tensors: one naming a family, as transformers'
                    modeling files do
importing           A model folder from anywhere on this machine, copied into a repository: whole and
                    checked, or not at all
loads               loads of models: one after another, each on a thread of its own and within a limit of
                    time
naming              from the names that tensors have in a file to the canonical ones of
                    `models/folders/parameters.py`
parameters          the canonical names of a model's parameters and their exact shapes, as its specification
                    fixes them
repository          the model repository: a folder of model folders, each plain or with numbered version
                    folders inside
sentence_files      what sentence-transformers' files beside the weights say: modules, pooling, prompts,
                    where texts are cut
sentence_modules    sentence-transformers' modules that follow a transformer: pooling, and what is done to
                    the vector then
weights             tensors from safetensors files, checked name by name and shape by shape, in memory of
                    their own
"""
