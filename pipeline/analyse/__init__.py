"""Stage two: frames become observations."""
