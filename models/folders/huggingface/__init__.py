"""Hugging Face `config.json` files as specifications: a table for each `model_type`.

decoders   tables of the families that look one way
encoders   tables of the families that look both ways
family     what a table is, and what else is known of a family
fields     single fields of a configuration, with transformers' defaults and older spellings
known      fields that change no number that is served
layers     what differs from layer to layer: which slide and how far, and how each turns
names      what each family calls its tensors
rotary     rotary positions: their base, what part turns, and how they are stretched
translate  a configuration as a ModelSpec, by the table of its family
"""
