"""Loading decoders, finding their parts, and storing an edited model as its base plus a weight delta."""
