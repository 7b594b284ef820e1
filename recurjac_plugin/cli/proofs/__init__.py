"""Commands about proofs that others have written down."""
