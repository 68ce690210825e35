"""Slides and results in the browser (extra: `digipath[viewer]`): looked at, reviewed, and segmented from there."""
