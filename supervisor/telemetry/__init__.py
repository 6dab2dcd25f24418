"""The server's telemetry: log lines, counters, rates."""
