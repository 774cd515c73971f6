"""A trained model as a folder that transformers loads by itself (docs/export.md).

`architecture` says which of transformers' own architectures computes the same and what becomes of each weight,
`weights` writes them, `tokenizer_files` and `card` the files beside them, `images` what a model with images needs more,
`folder` makes the whole appear at once. `python -m stages.export` is the program behind `sweep export`.
"""
