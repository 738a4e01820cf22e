"""Models, declared so that they read like the figures of their papers."""
