"""Several inputs, several outputs and several networks as one network, of one flat input."""
