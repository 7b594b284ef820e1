"""The two files that a certificate is about, read exactly."""
