"""A model test: random operations on a real mount and on a plain folder in memory, compared at each step.

    PYTHONPATH=Tests:Tests/blackbox python -m model --operations 1000000 [--seed N] [--store radosgw]
    PYTHONPATH=Tests:Tests/blackbox python -m model --replay FILE
"""
