"""Topics: their options and subscribers, and the delivery of publications to them."""
