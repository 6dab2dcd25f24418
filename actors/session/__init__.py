"""Connections that speak the message protocol: clients' sessions, and operators'."""
