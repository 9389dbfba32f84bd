"""The bytes of every stored object, as docs/FORMAT.md lays them down: pure, bytes to values and back."""
