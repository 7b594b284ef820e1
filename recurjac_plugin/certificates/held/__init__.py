"""What certificates say, as people hold it."""
