"""What dev.py, the tests and the benchmarks need around the pack; ComfyUI never imports this folder."""
