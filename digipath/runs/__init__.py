"""Many slides: what is to be done, who does it, and how each of them ended."""
