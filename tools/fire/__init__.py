"""The campaign of ``tools/under_fire.py``, a module a part."""
