"""Functions of torch that auto_LiRPA has no nodes for, written with those that it has while it traces a module."""
