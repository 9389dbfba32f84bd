"""Client-side encryption: a store's key, and sealing the bytes of one object (docs/FORMAT.md section 9)."""
