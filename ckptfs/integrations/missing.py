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

    def __str__(self) -> str:
        return f"{self.fact}: {self.hint}"
