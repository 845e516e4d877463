"""Labelled clips to alarm accuracy; `scenes` is the simulator."""
