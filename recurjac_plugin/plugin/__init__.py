"""What is put into auto_LiRPA: method names, operators, a node for Jacobians."""
