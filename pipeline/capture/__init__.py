"""Stage one: camera streams become frames on one timeline."""
