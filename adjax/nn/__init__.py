"""Layers: the only places that know streaming state and codebooks."""
