"""What we remember between exchanges: records, the stores that hold them, the book in front."""
