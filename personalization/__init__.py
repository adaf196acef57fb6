"""What the papers say, in torch. Only `personalization.comfyui` knows the host."""
