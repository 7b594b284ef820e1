"""What is installed, and what is supported."""
