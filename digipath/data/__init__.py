"""From slides to batches of patches."""
