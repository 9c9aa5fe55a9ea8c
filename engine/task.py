"""What can be asked for: specs, the families they come in, and the tasks among them that run.

A spec is a frozen, strict description; from its fields come the form in the window, the JSON
schema, the command line's help and the error messages. A *family* is a base class whose members
are told apart by `kind`; a field that takes any member is written `OneOf[AttackSpec]`. Members are
found by importing every `engine.*.spec`, so a new capability registers by being there.

Nothing here imports torch, numpy or Qt.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import json
import re
from abc import abstractmethod
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    Self,
    TypeAlias,
    TypeVar,
    Union,
)

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    JsonValue,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema

from engine.errors import BadInput, Problem, SpecError

if TYPE_CHECKING:
    from engine.bench import Bench
    from engine.events import Event

Summary: TypeAlias = dict[str, Any]
"""What a task returns: JSON values, accuracies as fractions of 1. `unmet`, where it is there, says
in a sentence each what was required of the result and is not so: the run is then rejected."""

Steps: TypeAlias = "Generator[Event, None, Summary]"
"""A running task: pulling it is running it, not pulling is pausing it."""

S = TypeVar("S", bound="Spec")


def _with_paper(schema: dict[str, Any], spec: type[Spec]) -> None:
    if spec.cite:
        schema["cite"] = spec.cite


class Spec(BaseModel):
    """Base of everything that can be asked for: frozen, strict, without unknown fields."""

    cite: ClassVar[str] = ""
    """The paper that a kind is from, and the place in it."""

    model_config = ConfigDict(
        json_schema_extra=_with_paper,
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        defer_build=True,
        protected_namespaces=(),
    )

    def __init__(self, **values: Any) -> None:
        """Raises SpecError, as `parse` does."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _explained(type(self), error) from None

    # Or pydantic would call it for what it reads from JSON too, and take lists for faults.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def to_dict(self) -> dict[str, Any]:
        """JSON values, complete (defaults included), without fields that are None."""
        return self.model_dump(mode="json", exclude_none=True)


def param(
    default: Any,
    title: str,
    help: str,
    *,
    unit: str = "",
    cite: str = "",
    advanced: bool = False,
    live: bool = False,
    reference: bool | Literal["examples"] = False,
    path: Literal["", "file", "folder", "save"] = "",
    form: str = "",
    **limits: Any,
) -> Any:
    """A field of a spec, with what its form, its help and its error messages need.

    `default` is `...` where a value must be given. `unit` is shown beside the value; `cite` names
    a paper and section; `advanced` folds the field away; `live` marks a number that may be changed
    while the task runs, which asks `bench.control` for it by the field's name; `reference` marks a
    field that names a run or an exported file (of "examples", a run that attacked); `path` says
    what kind of path it is; `form` says in words, with an example, what its pattern asks for.
    `limits` are pydantic's (ge, gt, le, lt, min_length, ...).
    """
    extra: dict[str, JsonValue] = {
        "unit": unit,
        "cite": cite,
        "advanced": advanced,
        "live": live,
        "reference": reference,
        "path": path,
        "form": form,
    }
    shown: dict[str, JsonValue] = {name: value for name, value in extra.items() if value}
    return Field(default, title=title, description=help, json_schema_extra=shown, **limits)


def extra_of(field: FieldInfo) -> Mapping[str, Any]:
    """What `param` noted of a field beside pydantic's own attributes."""
    extra = field.json_schema_extra
    return extra if isinstance(extra, Mapping) else {}


# --- families -----------------------------------------------------------------------------------


if TYPE_CHECKING:
    OneOf = Annotated[S, "any member of the family"]
else:

    class OneOf:
        """`OneOf[Family]` annotates a field that takes any member of the family, told apart by
        `kind`. The union is built when the spec is first used, after `discover()`."""

        def __class_getitem__(cls, family: type[Spec]) -> Any:
            return Annotated[family, _Union(family)]


class _Union:
    def __init__(self, family: type[Spec]) -> None:
        self.family = family

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        members = tuple(kinds(self.family).values())
        if len(members) == 1:
            return handler.generate_schema(members[0])
        return handler.generate_schema(
            Annotated[Union[members], Field(discriminator="kind")]  # noqa: UP007
        )


@functools.cache
def discover() -> None:
    """Import every `engine.*.spec`, a module or a package, which makes its specs known."""
    found = (path for path in Path(__file__).parent.glob("*/spec*") if path.stem == "spec")
    for room in sorted({path.parent.name for path in found}):
        importlib.import_module(f"engine.{room}.spec")


def kind_of(spec: type[Spec]) -> str | None:
    """The `kind` that names a concrete spec; None for a family's base class."""
    field = spec.model_fields.get("kind")
    return field.default if field is not None and isinstance(field.default, str) else None


def kinds(family: type[S]) -> dict[str, type[S]]:
    """The members of a family by their `kind`, in the order in which they were defined."""
    discover()
    found: dict[str, type[S]] = {}
    pending = list(family.__subclasses__())
    while pending:
        member = pending.pop(0)
        kind = kind_of(member)
        if kind is not None:
            found[kind] = member
        pending.extend(member.__subclasses__())
    return found


def family_of(field: FieldInfo) -> type[Spec] | None:
    """The family that a `OneOf[...]` field takes (optional or not), else None."""
    for item in field.metadata:
        if isinstance(item, _Union):
            return item.family
    for part in _parts(field.annotation):
        for item in getattr(part, "__metadata__", ()):
            if isinstance(item, _Union):
                return item.family
    return None


def nested(field: FieldInfo) -> type[Spec] | None:
    """The one spec that a field holds (optional or not, or a list of them), else None."""
    for part in _parts(field.annotation):
        if inspect.isclass(part) and issubclass(part, Spec):
            return part
    return None


def about_spec(spec: type[Spec]) -> str:
    """The first paragraph of a spec's description."""
    return " ".join((spec.__doc__ or "").split("\n\n")[0].split())


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _parts(part)


# --- tasks --------------------------------------------------------------------------------------


class BenchSpec(Spec):
    """On what a task runs."""

    device: str = param(
        "auto",
        "Device",
        "Where tensors live: auto takes the first GPU there is, else the CPU.",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
    )
    threads: int = param(
        0,
        "Threads",
        "CPU threads for one operation. 0 takes one on two cores or fewer, else half the cores. "
        "Results are bit-identical only for the same number.",
        ge=0,
        le=1024,
    )
    precision: Literal["float32", "bf16"] = param(
        "float32",
        "Precision",
        "bf16 runs the model under autocast; verdicts are always confirmed in float32.",
    )
    channels_last: bool = param(
        False, "Channels last", "Memory layout that convolutions on a GPU prefer.", advanced=True
    )
    compile: bool = param(
        False, "Compile", "Compile the model with torch.compile before training.", advanced=True
    )


class Task(Spec):
    """A spec that can be run."""

    title: ClassVar[str]
    """What the window calls it."""
    summary_help: ClassVar[Mapping[str, str]] = {}
    """What its summary holds: each key that can be there, and what it says."""

    kind: str
    seed: int = param(0, "Seed", "Source of every random draw of the task.", ge=0, le=2**63 - 1)
    bench: BenchSpec = param(BenchSpec(), "Bench", "Device, threads and precision.", advanced=True)

    def check(self, workspace: Path) -> None:
        """Raises BadInput where a look at the files that it names tells that it cannot be done, at
        once and without torch: no run is made of it then. Paths are absolute by now."""

    @abstractmethod
    def run(self, bench: Bench) -> Steps:
        """Yield events, at least every 50 ms where an iteration allows; return the summary."""


class LiveChange(Spec):
    """A live value is another one from a step on."""

    name: str = param(..., "Value", "The live value, by its field's name, as in lr.", form="lr")
    value: float = param(..., "New value", "What it is from then on.")
    step: int = param(..., "From step", "As the curves count them.", unit="steps", ge=1)


class Adjustable(Task):
    """A task of which a person may change live values while it runs. What was changed can be asked
    for again: then the run is the same."""

    changes: tuple[LiveChange, ...] = param(
        (),
        "Changes on the way",
        "Live values that change at a step, as a person would change them. A run that is saved as "
        "a recipe names those that were made.",
        advanced=True,
    )

    @model_validator(mode="after")
    def _can_be_changed(self) -> Self:
        for change in self.changes:
            try:
                check_live(self, change.name, change.value)
            except BadInput as error:
                raise ValueError(f"changes: {error}") from None
        return self


def task_kinds() -> dict[str, type[Task]]:
    """Every task there is, by kind."""
    return kinds(Task)  # type: ignore[type-abstract]


# --- live values ----------------------------------------------------------------------------------


def live_fields(spec: Spec) -> dict[str, Spec]:
    """The values that may be changed while `spec` runs, by name, each with the spec that holds it:
    its title and range are those of the field."""
    found: dict[str, Spec] = {}
    for name, field in type(spec).model_fields.items():
        value = getattr(spec, name)
        if extra_of(field).get("live"):
            found[name] = spec
        elif isinstance(value, Spec):
            found |= live_fields(value)
    return found


def check_live(task: Task, name: str, value: float) -> None:
    """Raises BadInput if `task` has no live value `name`, or not in this range."""
    known = live_fields(task)
    if not known:
        raise BadInput(f"{name} cannot be set: nothing of a run of kind {task.kind} can be changed")
    if name not in known:
        if name.split(".")[-1] in _fields_in(task):
            raise BadInput(
                f"{name} cannot be changed on the way: what is being trained was built with it. "
                f"Start a new run with another one. What can be changed: {', '.join(known)}"
            )
        raise BadInput(unknown("live value", name, known))
    if float(value).is_integer() and isinstance(getattr(known[name], name), int):
        value = int(value)  # as a count comes from a curve, a slider or a file
    try:
        held = known[name].to_dict()
        held.pop("changes", None)  # of which this may be one
        parse(type(known[name]), {**held, name: value})
    except SpecError as error:  # its paths are not those of the form that the task came from
        raise BadInput(str(error)) from None


def _fields_in(spec: Spec) -> set[str]:
    """The names of its fields, and of those of the specs in it."""
    inside = (getattr(spec, name) for name in type(spec).model_fields)
    held = (_fields_in(value) for value in inside if isinstance(value, Spec))
    return set(type(spec).model_fields).union(*held)


# --- references ---------------------------------------------------------------------------------


def references(spec: Spec) -> dict[str, str]:
    """The fields of `spec` that name a run or a file, with what they name. Of a field that names
    several, each has its place in the name, as in `also.0`; one inside of a part has the way to it,
    as in `attack.generator` or `attacks.1.generator`."""
    found: dict[str, str] = {}
    for name, field in type(spec).model_fields.items():
        value = getattr(spec, name)
        parts = value if isinstance(value, tuple) else ()
        if extra_of(field).get("reference") and value:
            several = {f"{name}.{place}": ref for place, ref in enumerate(parts)}
            found |= several if isinstance(value, tuple) else {name: value}
        for way, part in ((name, value), *((f"{name}.{i}", each) for i, each in enumerate(parts))):
            if isinstance(part, Spec):
                found |= {f"{way}.{inner}": ref for inner, ref in references(part).items()}
    return found


def with_references(values: Mapping[str, Any], found: Mapping[str, str]) -> dict[str, Any]:
    """The values of a spec with other references, named as `references` names them."""
    whole = dict(values)
    for path, ref in found.items():
        whole = _with(whole, path.split("."), ref)
    return whole


def _with(values: Any, path: Sequence[str], ref: str) -> Any:
    """`values` with `ref` at the end of the path; a list gets longer where it ends before that."""
    here, *rest = path
    if here.isdigit():
        several, place = [*(values or ())], int(here)
        before = several[place] if place < len(several) else None
        several[place : place + 1] = [_with(before, rest, ref) if rest else ref]
        return several
    table = dict(values or {})
    table[here] = _with(table.get(here), rest, ref) if rest else ref
    return table


# --- parsing, with errors that help ---------------------------------------------------------------


def parse_task(values: Mapping[str, Any]) -> Task:
    """The task that `values` (as from TOML or JSON, with `kind`) describes.

    Raises SpecError with every fault, each with the path of its field.
    """
    known = task_kinds()
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in known:
        raise SpecError([Problem(("kind",), unknown("task kind", kind, known))])
    return parse(known[kind], values)


def parse(spec: type[S], values: Mapping[str, Any]) -> S:
    """`values` as a `spec`. Raises SpecError with every fault, each with the path of its field."""
    try:
        text = json.dumps(values, default=_refuse)
    except (TypeError, ValueError) as error:
        raise SpecError([Problem((), str(error))]) from None
    if spec.__pydantic_complete__ is False:
        discover()
        spec.model_rebuild()
    try:
        return spec.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise _explained(spec, error) from None


def _explained(spec: type[Spec], error: ValidationError) -> SpecError:
    faults: list[dict[str, Any]] = [dict(fault) for fault in error.errors()]
    # What is faulty inside a list is no longer in it: that it is too short then says nothing.
    broken = {fault["loc"][:-1] for fault in faults}
    broken |= {loc[:place] for loc in broken for place in range(len(loc))}
    told = [f for f in faults if f["type"] != "too_short" or f["loc"] not in broken]
    return SpecError([_problem(spec, fault) for fault in told])


def _refuse(value: Any) -> Any:
    raise TypeError(f"{value!r} is not a value that a spec can hold (text, number, list, table)")


def _problem(spec: type[Spec], error: dict[str, Any]) -> Problem:
    path, owner = _locate(spec, error["loc"])
    context = error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden":
            inside = _inside(owner, path[-1])
            return Problem(path, unknown("field", path[-1], owner.model_fields, inside))
        case "missing":
            return Problem(path, "this field must be given")
        case "union_tag_invalid":
            expected = [name.strip("' ") for name in context["expected_tags"].split(",")]
            return Problem((*path, "kind"), unknown("kind", context["tag"], expected))
        case "union_tag_not_found":
            family = family_of(owner.model_fields[_field(path)]) if path else None
            names = ", ".join(kinds(family)) if family else ""
            return Problem((*path, "kind"), f"say which kind it is: one of {names}")
        case "model_type" | "dict_type" if path and _field(path) in owner.model_fields:
            family = family_of(owner.model_fields[_field(path)])
            form = f', as in {{kind = "{next(iter(kinds(family)))}"}}' if family else ""
            return Problem(path, f"expected a table{form}, but it is {error['input']!r}")
        case "literal_error" if isinstance(error["input"], str):
            expected = [
                name.strip("' ") for name in context["expected"].replace(" or ", ",").split(",")
            ]
            return Problem(path, unknown("value", error["input"], expected))
    given = error["input"]
    own = owner.model_fields.get(_field(path))
    wanted = extra_of(own).get("form") if own is not None else None
    if wanted and error["type"] in ("string_pattern_mismatch", "string_type"):
        text = f"expected {wanted}"
    elif error["type"] in _EXPECTED:
        values = {name: _plain(value) for name, value in context.items()}
        text = _EXPECTED[error["type"]].format(**values)
    else:
        text = error["msg"].removeprefix("Value error, ")
        text = f"{text[:1].lower()}{text[1:]}" if path else text
    if path and not isinstance(given, dict | list):
        text = f"{text}, but it is {given!r}"
    decimal = decimal_of(given) if error["type"] in ("float_type", "int_type") else None
    return Problem(path, f"{text}: write {decimal}" if decimal else text)


def decimal_of(text: Any) -> str | None:
    """A fraction such as 8/255 as TOML and JSON take it, 0.0313725; None if it is none."""
    found = _FRACTION.fullmatch(text.strip()) if isinstance(text, str) else None
    return f"{float(found[1]) / float(found[2]):.6g}" if found and float(found[2]) else None


_FRACTION = re.compile(r"(\d+(?:\.\d+)?)\s*/\s*(\d+(?:\.\d+)?)")


_EXPECTED = {
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be above {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be below {lt}",
    "finite_number": "must be a finite number",
    "float_type": "must be a number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "tuple_type": "must be a list",
    "literal_error": "must be one of: {expected}",
    "string_pattern_mismatch": "must match the pattern {pattern}",
    "string_too_short": "must not be shorter than {min_length}",
    "too_short": "must have at least {min_length} in it, not {actual_length}",
    "too_long": "must have at most {max_length} in it, not {actual_length}",
}
"""What to say instead of pydantic, by its types of error; `{...}` is what its context holds."""


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _field(path: tuple[str, ...]) -> str:
    """The field that a path leads to: places in its list, at the end, left out."""
    return next((part for part in reversed(path) if not part.isdigit()), "")


def _locate(spec: type[Spec], loc: tuple[Any, ...]) -> tuple[tuple[str, ...], type[Spec]]:
    """The path without the union tags that pydantic puts in it, and the spec that owns its end."""
    path: list[str] = []
    owner = spec
    inside: type[Spec] | None = spec
    for part in loc:
        if inside is None:
            path.append(str(part))
            continue
        if isinstance(part, int):  # the place in a list, whose members are told apart next
            path.append(str(part))
            continue
        field = inside.model_fields.get(str(part))
        owner = inside
        path.append(str(part))
        if field is None:
            members = _members(inside)
            if str(part) in members:
                path.pop()
                inside = members[str(part)]
                owner = inside
            else:
                inside = None
            continue
        family = family_of(field)
        if family is not None:
            known = kinds(family)
            inside = next(iter(known.values())) if len(known) == 1 else family
        else:
            inside = nested(field)
    return tuple(path), owner


def _members(spec: type[Spec]) -> dict[str, type[Spec]]:
    return kinds(spec) if kind_of(spec) is None else {}


ALIASES: Mapping[str, tuple[str, ...]] = {
    "alpha": ("step_size",),
    "eps_step": ("step_size",),
    "stepsize": ("step_size",),
    "beta": ("weight",),
    "lambda": ("weight",),
    "epsilon": ("eps",),
    "iterations": ("steps",),
    "iters": ("steps",),
    "nb_iter": ("steps",),
    "max_iter": ("steps",),
    "num_steps": ("steps",),
    "n_iter": ("steps",),
    "num_random_init": ("restarts",),
    "n_restarts": ("restarts",),
    "kappa": ("confidence",),
    "n_queries": ("max_queries",),
    "query_limit": ("max_queries",),
    "learning_rate": ("lr",),
    "lr": ("step_size",),
    "aa": ("autoattack",),
    "cw": ("carliniwagner",),
    "c&w": ("carliniwagner",),
    "hsj": ("hopskipjump",),
    "ifgsm": ("bim",),
    "mim": ("mifgsm",),
    "uap": ("universal",),
    "madry": ("pgd_at",),
    "fast_at": ("fast",),
    "fgsm_rs": ("fast",),
    "free": ("free_at",),
    "iat": ("interpolated",),
    "crown": ("ibp",),
    "randomized_smoothing": ("smoothing",),
}
"""What papers and other libraries call a field or kind, and what it is called here."""


def unknown(what: str, given: Any, expected: Iterable[str], inside: Sequence[str] = ()) -> str:
    """That there is no `given`, what may be meant, and what there is. inside: paths of fields one
    level below that have the name, or mean the same."""
    names = list(expected)
    if given is None:
        return f"no {what} is given; expected one of: {', '.join(names)}"
    same = [name for name in ALIASES.get(str(given).lower(), ()) if name in names]
    near = same or inside or difflib.get_close_matches(str(given), names, n=1, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}? Expected" if near else "expected"
    return f"there is no {what} {given!r}; {hint} one of: {', '.join(names)}"


def _inside(owner: type[Spec], given: str) -> list[str]:
    """The fields one level below `owner` that are called `given`, or else what that means; those of
    kinds first."""
    fields = sorted(owner.model_fields.items(), key=lambda item: family_of(item[1]) is None)
    for names in ((given,), ALIASES.get(given.lower(), ())):
        found = [
            f"{field}.{name}"
            for field, described in fields
            for name in names
            if any(name in spec.model_fields for spec in _held(described))
        ]
        if found:
            return found
    return []


def _held(field: FieldInfo) -> list[type[Spec]]:
    """The specs that a field can hold, of a family the one that it has unless told otherwise; none
    of a list, whose members have no path of their own."""
    if any(getattr(part, "__origin__", None) is tuple for part in _parts(field.annotation)):
        return []
    if isinstance(field.default, Spec):
        return [type(field.default)]
    family, one = family_of(field), nested(field)
    return [*kinds(family).values()] if family else [one] if one else []
