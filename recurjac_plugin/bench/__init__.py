"""Whole benchmark sets: instances.csv in, one verdict per instance out, whatever happens to the processes in between.

``instances`` reads the lists, ``solve`` is what happens to one instance, ``child`` gives it a process of its own,
``local`` and ``cluster`` run many of them, ``run_folder`` keeps the results, ``summary`` counts them.
"""
