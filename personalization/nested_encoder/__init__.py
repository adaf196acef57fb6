"""An encoder that gives a picture's nested values without learning (Nested Attention, arXiv 2501.01407)."""
