"""What takes the place of products of uncertain derivatives and gradients, and columns that are pushed past them."""
