"""The operators' page: a mirror of the MQTT feed with its own store, shown by a browser."""
