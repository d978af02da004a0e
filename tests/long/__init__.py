"""Suites that take minutes or need more than Python; tests/__init__.py has the map."""
