"""The Cython core: shared memory, ids, the object store, queues and the serializer.

Imports nothing above it; see ``docs/design.md`` for what lies where.
"""
