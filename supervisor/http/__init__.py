"""The HTTP listener: health, metrics, REST, and the dashboard with its control socket."""
