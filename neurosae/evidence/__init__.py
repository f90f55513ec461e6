"""What a run keeps beside its scores, so that everything about it can be shown later without a language model.

`tables` are tables over stimuli and blocks, `geometry` RDMs and what explains them, `cards`
what is known about single features (with `decoder`: which tokens they promote), `writing` texts of the steered model,
`about` how it was all made. Nothing here writes files: every function returns a DataFrame or what JSON can hold.
"""
