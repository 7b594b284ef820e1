"""Functions of one variable: their derivatives, and lines around them."""
