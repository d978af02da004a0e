"""What the tests share; none of it is a test. tests/__init__.py has the map."""
