"""Redis: addresses, clients, keys, encodings, scripts, and how outages are survived.

Nothing here knows a worker's settings or its services. May import `engine`, `monitor`, `errors`,
`types`.
"""
