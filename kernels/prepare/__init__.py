"""What is computed once a model: its weights, merged matrices, Chebyshev series of the embedding, bases."""
