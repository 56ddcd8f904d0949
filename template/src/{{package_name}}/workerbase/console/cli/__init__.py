"""Commands of the console; the entry points of the project name them.

May import the console, the core with its `cli`, and, for development, `testing`.
"""
