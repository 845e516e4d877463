"""Stages three and four: observations become tickets, tickets become outcomes."""
