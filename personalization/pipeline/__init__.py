"""What diffusers.py weaves: a pipeline's words, and its UNet's sites."""
