"""Whole benchmark sets: instances.csv in, one verdict an instance out.

``instances`` reads the lists, ``solve`` is what happens to one instance, ``child`` gives it a process of its own, which
begins with what ``preload`` has imported, ``local`` and ``cluster`` run many of them, ``records`` says what is kept of
each, ``run_folder`` keeps it, ``summary`` counts.
"""
