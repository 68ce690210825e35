"""Judging results against ground truth. NumPy and SciPy; no files, no learning framework."""
