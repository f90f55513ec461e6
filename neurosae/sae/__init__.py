"""Sparse autoencoders: load, encode, train, evaluate, and tell what text they were trained on."""
