"""Adapters that give the engine to other libraries, one room for each library."""
