"""Parts of a region where neurons have a side: one small network for all of them, and bounds on each."""
