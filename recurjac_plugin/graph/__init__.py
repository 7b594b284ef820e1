"""A network as plain steps: linear maps and uncertain factors."""
