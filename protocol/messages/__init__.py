"""The messages of `moorage.v1`: envelopes and their codec, types and payloads, topics."""
