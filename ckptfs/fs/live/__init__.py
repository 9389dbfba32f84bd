"""The live tree: the real files behind a read-write mount, their names, and who has them open."""
