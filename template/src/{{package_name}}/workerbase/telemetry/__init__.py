# Owned by arq-worker-template: `copier update` overwrites edits; list other monitors instead.
"""What a worker tells the outside: metrics, traces, structured logs. Rendered where asked for."""
