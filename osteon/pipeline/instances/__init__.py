"""How one instance becomes durable: bytes on the disk, its row, and what is read of its header."""
