"""Whether the bounds of auto_LiRPA hold, operator by operator, on the installed version."""
