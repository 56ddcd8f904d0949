# Owned by arq-worker-template: `copier update` overwrites edits; import from it, add nothing.
"""For development only: an embedded Redis, the demo, the chaos run. Workers never import it."""
