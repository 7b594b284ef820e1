"""Where pre-activation bounds come from, and whether they hold."""
