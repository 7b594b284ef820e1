"""Networks made of others, so that a property of several networks, or about inputs, is one of the outputs of one."""
