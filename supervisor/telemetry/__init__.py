"""What a server tells of itself: log lines, counters, rates."""
