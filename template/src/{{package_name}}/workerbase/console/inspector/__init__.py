"""Read and change single jobs, find an id wherever it is, and read the schedule.

May import the core.
"""
