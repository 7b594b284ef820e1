"""The terminal and its habits: tables of its width, Ctrl-C, completion of words, and a file of options."""
