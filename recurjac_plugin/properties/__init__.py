"""What is asked about outputs: VNN-LIB files and specification matrices.

``vnnlib`` reads a file as a ``spec``: ``version_1`` rewrites old text as new, the official parser turns it into a tree,
``syntax`` turns the assertions of the tree into ``cases``, and these into boxes; ``property_file`` is how messages name
things. ``margins`` makes the specification matrices of classifiers.
"""
