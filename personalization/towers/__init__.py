"""Towers that read a style from some pictures and a meaning from another one (DRC, arXiv 2504.17349)."""
