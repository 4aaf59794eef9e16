"""The exported C on processors: built, run and counted without a board."""
