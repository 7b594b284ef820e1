"""Methods side by side, as tables: on a region, on a property, and constants against the radius."""
