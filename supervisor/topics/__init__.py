"""Topics: who is subscribed to what, and the delivery of what is published."""
