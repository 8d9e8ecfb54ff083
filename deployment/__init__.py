"""Running SuperLink and SuperNodes on machines of their own, from certificates to status."""
