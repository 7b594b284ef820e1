"""What bounds the boxes of a property, one by one or in batches, and how far that may be from what is judged."""
