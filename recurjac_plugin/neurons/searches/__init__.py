"""Branch and bound over parts: sets that are shown to be empty, and largest values."""
