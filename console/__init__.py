"""The operators' page: an MQTT client with a store of its own (extra `console`)."""
