# Owned by arq-worker-template: `copier update` overwrites edits; import from it, add nothing.
"""For the application: enqueue jobs (`delivery.arq`) and publish events (`delivery.streams`).

Nothing here imports the worker's settings, tasks or handlers; all it needs is where Redis is.
"""
