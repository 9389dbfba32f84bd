"""Capturing: turning the live tree at one moment into a pending version, without copying data."""
