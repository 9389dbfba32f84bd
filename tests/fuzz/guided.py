"""One target under atheris: `python -m tests.fuzz.guided TARGET LIBFUZZER-ARGUMENTS...`. Mutations are repaired."""

import random
import sys

import atheris

with atheris.instrument_imports(include=["ckptfs"]):
    from tests.fuzz.mutating import mutate
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Fuzz until libFuzzer ends the process."""
    name, *arguments = sys.argv[1:]
    target = TARGETS[name]
    seeds = target.seeds(name)

    def run(data: bytes) -> None:
        target.run(data)

    def change(data: bytes, most_bytes: int, seed: int) -> bytes:
        rng = random.Random(seed)
        mutated = atheris.Mutate(data, most_bytes) if rng.random() < 0.5 else mutate(data, seeds, rng)
        return target.repair(bytes(mutated))[:most_bytes]

    atheris.Setup([sys.argv[0], *arguments], run, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
