"""Demo and chaos: a feature for development, which neither the wheel nor the image contains.

May import everything else. What it needs of other features it looks for, since a project may not
have chosen them.
"""
