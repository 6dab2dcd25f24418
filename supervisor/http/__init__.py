"""HTTP beside the connections: health, metrics, REST, and the dashboard with its control socket."""
