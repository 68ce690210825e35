"""What a person says of a result: kept beside it, never over it, and compared with it."""
