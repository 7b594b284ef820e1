"""Torch modules of users, looked at from outside and left as they were."""
