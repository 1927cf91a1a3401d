"""Fields of a Hugging Face `config.json` that are known to change no number that is served.

A list of what is known, not of what is forbidden: a field that is neither here nor read is one whose
meaning nobody has looked up, and its model is not served as if it were not there. The sources are the
configuration and modeling files of transformers 4 and 5; `tests/models/configurations.py` changes every
one of them and looks whether any number does.
"""

__all__ = ["IDLE"]

_FILE = {  # of the file itself
    "_commit_hash",
    "_name_or_path",
    "architectures",
    "auto_map",
    "dtype",
    "model_type",
    "name_or_path",
    "torch_dtype",
    "transformers_version",
    "transformers.js_config",
    "unsloth_fixed",
    "unsloth_version",
}
_RUNNING = {  # how transformers runs it
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_flash_attn_2_enabled",
    "attn_implementation",
    "cache_implementation",
    "chunk_size_feed_forward",
    "output_attentions",
    "output_hidden_states",
    "output_past",
    "return_dict",
    "torchscript",
    "use_bfloat16",
    "use_cache",
    "use_return_dict",
}
_TRAINING = {
    "activation_dropout",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_pdrop",
    "dropout",
    "embd_pdrop",
    "gradient_checkpointing",
    "hidden_dropout",
    "hidden_dropout_prob",
    "init_std",
    "initializer_range",
    "layerdrop",
    "resid_pdrop",
}
_HEADS = {  # what is done with the last hidden state
    "classifier_dropout",
    "finetuning_task",
    "id2label",
    "label2id",
    "num_labels",
    "pooler_fc_size",
    "pooler_num_attention_heads",
    "pooler_num_fc_layers",
    "pooler_size_per_head",
    "pooler_type",
    "problem_type",
    "qa_dropout",
    "seq_classif_dropout",
    "summary_activation",
    "summary_first_dropout",
    "summary_last_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "task_specific_params",
    "tie_weights_",
    "tie_word_embeddings",
}
_GENERATION = {
    "bad_words_ids",
    "begin_suppress_tokens",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_scores",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict_in_generate",
    "suppress_tokens",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
}
_TOKENS = {  # which ids the tokenizer gives, not what is done with them; `pad_token_id` is read where it is
    "bos_token_id",
    "eos_token_id",
    "language",
    "model_max_length",
    "pad_token_id",
    "prefix",
    "sep_token_id",
    "tokenizer_class",
}

IDLE = frozenset(_FILE | _RUNNING | _TRAINING | _HEADS | _GENERATION | _TOKENS)
