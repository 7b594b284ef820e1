"""RecurJac: bounds of gradients from gains and derivative ranges."""
