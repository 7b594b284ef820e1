"""What the package does when somebody imports auto_LiRPA or torch.

It is arranged as soon as the package is imported, which must cost nothing: until one of the two libraries is imported,
the modules here load nothing but `sys`, not even `typing`.
"""
