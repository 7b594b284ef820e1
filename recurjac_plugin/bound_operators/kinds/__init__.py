"""What a treatment of a node is, and those of nodes that CROWN does not lead through on lines of a derivative."""
