"""Concepts to and from the files of others: textual-inversion embeddings and LoRA."""
