"""Applying a network to a slide."""
