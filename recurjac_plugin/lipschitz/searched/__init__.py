"""Constants between two proven bounds: a search over the sides of neurons."""
