"""Networks, their specifications and the bundles that keep both together."""
