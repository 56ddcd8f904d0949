"""For applications: enqueue jobs without the worker's settings, tasks or handlers.

All that is needed is the address of Redis. May import `config`, `broker`, `errors`, `types`; not
`process` or a service.
"""

from .arq import ArqAdapter

__all__ = ["ArqAdapter"]
