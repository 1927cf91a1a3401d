"""Reading model folders: what a folder declares, what its tensors are called, and its weights.

families            a model folder, read: what it specifies, and where its weights and tokenizer are
head_importing      a head set out of anybody's file into a model folder, checked against its model
head_tables         weights of every head out of tensors: AT2's estimators, contact heads of protein models
huggingface/        each `model_type` of Hugging Face: its `config.json` as a ModelSpec, by a table
importing           a model folder copied into a repository, whole and checked or not at all
loads               loads of models, one after another, each within a limit of time
naming              from the names of tensors in a file to the canonical ones
parameters          the canonical names of a model's parameters, and their shapes
predictions         what a folder's files hold for predicting words, read where it is wanted
repository          a folder of model folders, with or without numbered versions
sentence_files      sentence-transformers' files: modules, prompts, where texts are cut
sentence_modules    sentence-transformers' modules: pooling, and what is done to the vector then
tensor_file         tensors of a safetensors file by ordinary reads: nothing is mapped
text_limits         where texts are cut, and whether a text has any room there
weights             the parameters of a model out of its files, checked by name and shape
"""
