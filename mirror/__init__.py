"""A pull-through caching mirror for container registries. The map of rooms is docs/architecture.md."""

__version__ = "0.1.0"
