"""Judging results against ground truth. NumPy alone."""
