"""The message protocol `moorage.v1`: envelopes, their codec, types and topics."""
