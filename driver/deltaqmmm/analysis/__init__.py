"""What i-PI writes, read, averaged and drawn."""
