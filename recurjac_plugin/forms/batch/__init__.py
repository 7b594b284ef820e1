"""Values whose first axis is not the batch: computed as others, whose first axis is."""
