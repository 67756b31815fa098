"""What the scaling model expects of an observation."""
