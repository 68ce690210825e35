"""Pixels from disk: slides of every format, tissue, and made slides."""
