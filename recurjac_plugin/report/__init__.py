"""A page about the runs of `recurjac bench`.

``runs`` reads them, ``statistics`` counts and compares, ``pictures`` draws, ``page`` puts the page together.
"""
