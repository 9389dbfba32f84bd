"""Transports: what carries requests of the kernel to the operations and back."""
