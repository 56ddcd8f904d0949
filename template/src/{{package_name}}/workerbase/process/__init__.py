"""One worker process: its services, from start to drained stop, and its heartbeat.

`service` is the seam: what a service is and what it is given. May import `config`, `broker`,
`engine`, `monitor`, `errors`, `types`.
"""
