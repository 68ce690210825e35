"""Learning: losses, metrics and schedules."""
