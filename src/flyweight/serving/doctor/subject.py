"""What is examined: a server, this package's code, and a folder to work in."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flyweight.errors import UsageError
from flyweight.serving.doctor.schema import Document, Field
from flyweight.serving.doctor.target import Target


@dataclass(kw_only=True, slots=True)
class Subject:
    """Attributes:
    package: the folder of this package's code.
    work: an empty folder.
    server: None leaves out what needs one.
    process: id of the server's process where it runs here, else None.
    full: try every value on every route; without it a field that several routes share is tried once.
    """

    package: Path
    work: Path
    server: Target | None = None
    process: int | None = None
    full: bool = False
    _document: Document | None = field(default=None)

    @property
    def target(self) -> Target:
        """The server.

        Raises:
            UsageError: when there is none.
        """
        if self.server is None:
            raise UsageError("this check needs a server; give its address")
        return self.server

    @property
    def document(self) -> Document:
        """The server's OpenAPI document.

        Raises:
            UsageError: when it has none.
        """
        if self._document is None:
            answer = self.target.ask("GET", "/openapi.json")
            found = answer.json()
            if answer.status != 200 or not isinstance(found, dict):
                raise UsageError(f"{self.target.url}/openapi.json gives no document: {answer}")
            self._document = Document(found)
        return self._document

    def fields(self, *kinds: str) -> list[Field]:
        """Fields of these kinds; unless ``full``, one of each that routes share."""
        found: dict[Any, Field] = {}
        for one in self.document.fields():
            if one.kinds & {*kinds}:
                shared = (one.path, str(one.schemas))
                found.setdefault((one.route, *shared) if self.full else shared, one)
        return list(found.values())
