"""The exact part of a network between its undetermined neurons."""
