"""Reads an OpenAPI document: which bodies routes take, and every field in them with its bounds."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Path = tuple[str | int, ...]
DEEPEST = 5
SAYS = ("content", "prompt")  # a document calls them optional, and a body that says nothing is refused all the same
KINDS = ("integer", "number", "string", "array", "object", "boolean", "null")


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """A field of a body.

    Attributes:
        route: path of the route.
        path: where the field lies in the body.
        schemas: what it may be, references resolved, one for each alternative.
    """

    route: str
    path: Path
    schemas: tuple[Mapping[str, Any], ...]

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset(kind for schema in self.schemas for kind in kinds_of(schema))

    @property
    def takes_all(self) -> bool:
        """Whether it may be any JSON value."""
        return any(kinds_of(schema) == {*KINDS} for schema in self.schemas)

    def of_kind(self, *kinds: str) -> Mapping[str, Any] | None:
        """The first alternative of a kind."""
        return next((schema for schema in self.schemas if kinds_of(schema) & {*kinds}), None)

    def __str__(self) -> str:
        text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path)
        return f"{self.route} {text.removeprefix('.')}"


class Document:
    """An OpenAPI document."""

    def __init__(self, found: Mapping[str, Any]) -> None:
        self._found = found

    @property
    def operations(self) -> list[tuple[str, str]]:
        """(method in capitals, path) of every operation."""
        return [
            (method.upper(), path)
            for path, item in self._found["paths"].items()
            for method in item
            if method in ("get", "post", "put", "delete", "patch")
        ]

    def bodies(self) -> dict[str, Mapping[str, Any]]:
        """The schema of each route's JSON body."""
        found = {}
        for path, item in self._found["paths"].items():
            content = item.get("post", {}).get("requestBody", {}).get("content", {})
            if "application/json" in content:
                found[path] = self.resolve(content["application/json"]["schema"])
        return found

    def resolve(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """A schema without a reference at its head."""
        while "$ref" in schema:
            value: Any = self._found
            for part in schema["$ref"].removeprefix("#/").split("/"):
                value = value[part.replace("~1", "/").replace("~0", "~")]
            schema = {**value, **{name: given for name, given in schema.items() if name != "$ref"}}
        return schema

    def alternatives(self, schema: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
        """What a schema allows, one by one."""
        schema = self.resolve(schema)
        inner = schema.get("anyOf") or schema.get("oneOf")
        if inner is None:
            return (schema,)
        return tuple(one for part in inner for one in self.alternatives(part))

    def fields(self) -> list[Field]:
        """Every field of every body, those inside lists and objects too."""
        found: dict[tuple[str, Path], dict[str, Mapping[str, Any]]] = {}
        for route, schema in self.bodies().items():
            for path, one in self._inside((), schema):
                found.setdefault((route, path), {})[str(one)] = one
        return [Field(route=route, path=path, schemas=tuple(ones.values())) for (route, path), ones in found.items()]

    def _inside(self, path: Path, schema: Mapping[str, Any]) -> Iterator[tuple[Path, Mapping[str, Any]]]:
        for one in self.alternatives(schema):
            inner: list[tuple[str | int, Mapping[str, Any]]] = list(one.get("properties", {}).items())
            if isinstance(one.get("items"), dict):
                inner.append((0, one["items"]))
            if isinstance(one.get("additionalProperties"), dict):
                inner.append(("1", one["additionalProperties"]))
            for name, part in inner:
                for alternative in self.alternatives(part):
                    yield (*path, name), alternative
                if len(path) < DEEPEST:
                    yield from self._inside((*path, name), part)

    def smallest(self, schema: Mapping[str, Any], depth: int = 0) -> Any:
        """A small value that a schema allows."""
        one = next((found for found in self.alternatives(schema) if kinds_of(found) != {"null"}), {})
        for name in ("const", "default"):
            if one.get(name) is not None:
                return one[name]
        if one.get("enum"):
            return one["enum"][0]
        kinds = kinds_of(one)
        if "object" in kinds:
            properties = one.get("properties", {})
            wanted = list(one.get("required", ())) if depth < 2 * DEEPEST else []
            wanted += [name for name in SAYS if name in properties and name not in wanted]
            return {name: self.smallest(properties.get(name, {}), depth + 1) for name in wanted}
        if "array" in kinds:
            return [self.smallest(one.get("items", {}), depth + 1)] if depth < 2 * DEEPEST else []
        if "string" in kinds:
            return "a" * max(1, one.get("minLength", 1))
        if kinds & {"integer", "number"}:
            return max(1, one.get("minimum", 1))
        return False if "boolean" in kinds else None

    def body_for(self, field: Field, marker: str) -> Any:
        """A whole body in which the field holds the marker."""
        body = self.smallest(self.bodies()[field.route])
        properties = self.bodies()[field.route].get("properties", {})
        for name in ("max_tokens", "max_output_tokens"):
            if name in properties and isinstance(body, dict):
                body[name] = 1
        return self._with(body, self.bodies()[field.route], field.path, marker)

    def _with(self, value: Any, schema: Mapping[str, Any], path: Path, marker: str) -> Any:
        """``value`` with the marker at the path; None where no alternative of the schema has such a place."""
        if not path:
            return marker
        first, *rest = path
        for one in self.alternatives(schema):
            inner = one.get("items") if isinstance(first, int) else one.get("properties", {}).get(first)
            if inner is None and not isinstance(first, int) and isinstance(one.get("additionalProperties"), dict):
                inner = one["additionalProperties"]
            if not isinstance(inner, dict):
                continue
            if isinstance(first, int):
                found = self._with(None, inner, tuple(rest), marker)
                if found is not None:
                    return [found]
                continue
            whole = value if isinstance(value, dict) else self.smallest(one)
            whole = whole if isinstance(whole, dict) else {}
            found = self._with(whole.get(first), inner, tuple(rest), marker)
            if found is not None:
                return {**whole, first: found}
        return None


def kinds_of(schema: Mapping[str, Any]) -> frozenset[str]:
    """The JSON types that a schema without alternatives allows."""
    given = schema.get("type")
    if isinstance(given, str):
        return frozenset({given})
    if isinstance(given, list):
        return frozenset(given)
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if values is not None:
        names = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
        return frozenset(names.get(type(value), "object") for value in values)
    return frozenset({"object"}) if "properties" in schema else frozenset(KINDS)
