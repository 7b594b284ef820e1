"""stub"""
def report() -> None:
    """stub."""
