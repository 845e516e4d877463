"""One scenario, one file; a third party adds its own through the entry-point group `gridwatch.scenarios`."""
