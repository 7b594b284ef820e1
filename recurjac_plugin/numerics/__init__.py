"""How we compute: number types, rounding, intervals, memory."""
