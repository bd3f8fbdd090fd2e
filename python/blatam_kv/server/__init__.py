"""The HTTP faces. ``bul`` is the service on :8002, ``serve`` runs it, ``envelope`` wraps it."""
