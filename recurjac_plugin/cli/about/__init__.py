"""Commands about the program itself: what is installed, and what is supported."""
