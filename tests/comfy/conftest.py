"""The ring against the real ComfyUI classes, imported into this process, on the CPU."""

from tools.pack import attach_comfyui

attach_comfyui(cpu=True)
