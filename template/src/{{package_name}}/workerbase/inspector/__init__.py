"""Read and repair what is in Redis, for the command line and monitors.

May import `process`, `config`, `broker`, `engine`, `errors`, `types`.
"""
