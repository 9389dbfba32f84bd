"""What is said when a framework is not installed."""

from ckptfs.errors import CkptfsError


class MissingPackageError(CkptfsError, ImportError):
    """A package that an integration needs is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        CkptfsError.__init__(
            self,
            f"ckptfs.integrations needs {package}, which is not installed",
            hint=f"pip install 'ckptfs[{extra}]'",
        )
        self.name = package
        self._extra = extra

    def __reduce__(self) -> tuple[type["MissingPackageError"], tuple[str | None, str]]:
        # a pool of processes hangs when a worker's error cannot be unpickled
        return type(self), (self.name, self._extra)

    def __str__(self) -> str:
        return f"{self.fact}: {self.hint}"
