"""The gateway (:8000): one address in front of BUL and the systems beside it (docs/GATEWAY.md)."""
