"""Tables: for pandas, notebooks and papers."""
