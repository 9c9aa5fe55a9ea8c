"""What each command of the command line does: from the parsed options to an exit code."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shlex
import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TextIO

from engine import describing
from engine.errors import BadInput, CrucibleError, Problem, SpecError
from engine.events import Event, to_message
from engine.models.spec import Module
from engine.models.trust import is_trusted
from engine.places import default_workspace
from engine.recipe import (
    Entry,
    change,
    code_files,
    enqueue,
    entries,
    parse_change,
    read_recipe,
    rest_of,
)
from engine.robustness.flags import FLAGS
from engine.runner import Runner, unfinished_input
from engine.screen import Screen, duration, headline, shown, unmet, when
from engine.stopping import CODE as CANCELLED
from engine.stopping import Stop, unwinding
from engine.store import OVER, Run, RunInfo, Status, Workspace
from engine.task import BenchSpec, references, task_kinds

REJECTED = 3
"""Exit code of a run whose result is not what was required of it."""
_EXIT: Mapping[Status, int] = {
    "done": 0,
    "rejected": REJECTED,
    "cancelled": CANCELLED,
    "interrupted": CANCELLED,
}


# --- asking ---------------------------------------------------------------------------------------


def tasks(options: Namespace) -> int:
    """List the task kinds, with what each is for."""
    listed = [
        {"kind": kind, "title": task.title, "help": _first_sentence(task.__doc__)}
        for kind, task in task_kinds().items()
    ]
    if options.json:
        _print_json(listed, indent=1)
    else:
        for entry in listed:
            print(f"{entry['kind']:<10} {entry['help']}")
    return 0


def describe(options: Namespace) -> int:
    """Print what a task or a kind of one of its fields is: a text, or the JSON schema. Of a task it
    is the schema as well where it does not go to a terminal, so that programs need no option."""
    terminal = sys.stdout.isatty()
    width = max(60, shutil.get_terminal_size().columns) if terminal else describing.WIDTH
    if options.kind == describing.FLAGS_NAME:
        if options.json:
            _print_json({name: asdict(meaning) for name, meaning in FLAGS.items()}, indent=1)
        else:
            print(describing.flags_text(width))
        return 0
    specs = describing.found(options.kind)
    if options.json or (options.kind in task_kinds() and not terminal and not options.text):
        _print_json(describing.schema(specs), indent=1)
    else:
        print(describing.text(specs, width))
    return 0


def runs(options: Namespace) -> int:
    """List the runs of the workspace, the newest first."""
    workspace = _workspace(options, create=False)
    infos = workspace.runs()
    if options.json:
        fields = ("id", "name", "kind", "status", "created")
        _print_json([{f: getattr(info, f) for f in fields} for info in infos], indent=1)
        return 0
    if not infos:
        print(f"engine: {workspace.root} holds no runs yet", file=sys.stderr)
        return 0
    from rich.cells import cell_len  # a Chinese character is two columns wide

    for info in infos:
        name = info.name + " " * (20 - cell_len(info.name))
        begun = f"{when(info.created):<19}  {duration(info):>8}"
        line = f"{info.id}  {begun}  {info.kind:<8} {info.status:<12} {name} {headline(info)}"
        print(line.rstrip())
    return 0


def show(options: Namespace) -> int:
    """Print what is known of a run."""
    info = _workspace(options, create=False).find(options.run).info()
    if options.json:
        known = {
            "id": info.id,
            "name": info.name,
            "kind": info.kind,
            "status": info.status,
            "created": info.created,
            "started": info.started,
            "ended": info.ended,
            "spec": info.spec,
            "lineage": info.lineage,
            "summary": info.summary,
            "artifacts": list(info.artifacts),
            "environment": info.environment,
            "data_root": info.data_root,
            "error": info.error,
            "note": info.note,
        }
        if "weights_sha256" in info.summary:
            known["weights_sha256"] = info.summary["weights_sha256"]
        _print_json(known, indent=1)
        return 0
    if info.status == "rejected":
        print(f"rejected: {unmet(info)}")
    print(f"{info.name}  ({info.kind}, {info.status})\n{info.id}")
    if info.error:
        print(f"error: {info.error}")
    for title, text in (
        ("created", when(info.created)),
        ("started", when(info.started)),
        ("ended", when(info.ended)),
        ("duration", duration(info)),
        ("note", info.note),
    ):
        if text:
            print(f"{title:<34} {text}")
    for title, values in (
        ("spec", _flat(info.spec)),
        ("summary", info.summary),
        ("lineage", info.lineage),
    ):
        for name, value in values.items():
            print(f"{title + '.' + name:<34} {shown(name, value) if title != 'spec' else value}")
    for artifact in info.artifacts:
        print(
            f"{'artifact.' + artifact['name']:<34} {artifact['path']} ({artifact['size']:,} bytes)"
        )
    return 0


# --- running --------------------------------------------------------------------------------------


def run(options: Namespace) -> int:
    """Run the tasks of a recipe, one after another."""
    recipe = read_recipe(options.recipe, dict(map(parse_change, options.set)))
    files = code_files(recipe)
    if files and not options.trust_code:
        raise BadInput(
            f"{options.recipe} runs Python code with your rights: {', '.join(files)}. "
            "If you trust it, say so with --trust-code."
        )
    return _run_all(options, recipe)


def resume(options: Namespace) -> int:
    """Go on with an interrupted or cancelled run, and with what its recipe has after it."""
    secrets = _secrets(options)
    workspace = _workspace(options, create=False)
    first, *rest = rest_of(workspace, workspace.find(options.run))
    status = first.info().status
    if status in OVER and not rest:
        raise BadInput(f"run {first.id} is {status}: there is nothing to go on with")
    todo = rest if status in OVER else [first, *rest]
    before = None if status in OVER else unfinished_input(workspace, first.info())
    if before is not None:
        raise BadInput(_resume_first(options, first, *before))
    for each in todo:
        try:
            held = each.lock.acquire()
        except OSError as error:
            raise BadInput(
                f"run {each.id} cannot be gone on with: {error.strerror} ({each.lock.path})"
            ) from None
        if not held:
            raise BadInput(f"run {each.id} is being run by {each.lock.holder()}")
    with Stop() as stop:
        return _execute(options, workspace, todo, secrets, stop)


def _resume_first(options: Namespace, run: Run, field: str, before: RunInfo) -> str:
    """Why a run cannot be gone on with yet, and what to do before that."""
    text = (
        f"run {run.info().name!r} ({run.id}) cannot be gone on with: {field} comes from run "
        f"{before.name!r} ({before.id}), which is {before.status}"
    )
    if before.status in OVER:
        return f"{text}. Start it again, with what comes after it."
    place = ["--workspace", str(options.workspace)] if options.workspace else []
    return f"{text}. Resume that first: {shlex.join(['engine', 'resume', before.id, *place])}"


def export(options: Namespace) -> int:
    """Write a run's model as an encrypted file."""
    from engine.vault.keys import parse_recipient

    if not options.recipient and options.passphrase_file is None:
        raise BadInput(
            "say who can open it: --recipient age1… (`engine keygen` makes a key pair), or "
            "--passphrase-file F"
        )
    if options.recipient and options.passphrase_file and not options.run.endswith(".age"):
        raise BadInput(
            "--recipient and --passphrase-file cannot be combined: the age format forbids it. "
            "Choose one of the two."
        )
    for recipient in options.recipient:
        parse_recipient(recipient)  # raises now, not in a run that is then on record
    values = {
        "kind": "export",
        "model": options.run,
        "to": str(options.to.expanduser().absolute()),
        "recipients": options.recipient,
        "passphrase": options.passphrase_file is not None and not options.recipient,
    }
    return _run_one(options, "export", values)


def export_set(options: Namespace) -> int:
    """Write the adversarial examples of an attack or an evaluation."""
    values = {
        "kind": "export_set",
        "source": options.run,
        "form": options.form,
        "to": str(options.to.expanduser().absolute()),
    }
    return _run_one(options, "export-set", values)


def explain(options: Namespace) -> int:
    """Write what a model's decision on one sample of an attack or evaluation rests on, and the loss
    around it."""
    from engine.bench import Bench
    from engine.explain.pair import read_pair
    from engine.explain.writing import write_explanation
    from engine.models import load_model

    secrets = _secrets(options)
    workspace = _workspace(options, create=False)
    pair = read_pair(workspace.find(options.run), options.sample - 1)
    bench = Bench(
        workspace.root,
        workspace.root,
        spec=BenchSpec(device="cpu"),
        secrets=secrets,
        trust_code=options.trust_code,
    )
    loaded = load_model(pair.model, bench)
    folder = options.to.expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{folder} cannot be made: {error.strerror}") from None
    found = write_explanation(loaded.module, pair, folder)
    if options.json:
        _print_json(found)
        return 0
    names = [loaded.card.classes[at] for at in (pair.label, *found["predictions"])]
    print("true class {}, clean {}, adversarial {}".format(*names))
    for method, share in found["moved"].items():
        said = found["missing"].get(method)
        if said is None:
            said = "an empty map" if share is None else f"{share:.0%} rests on other pixels now"
        print(f"{method.replace('_', ' ')}: {said}")
    print(f"wrote {' and '.join(found['files'])} to {folder}")
    return 0


def generate(options: Namespace) -> int:
    """Let a trained generator make samples, and write them to a file."""
    from engine.bench import Bench
    from engine.generative.generating import write_samples

    secrets = _secrets(options)
    root = options.workspace or default_workspace()
    bench = Bench(root, spec=BenchSpec(device="cpu"), secrets=secrets)
    with unwinding():
        found = write_samples(
            options.model,
            bench,
            options.to.expanduser(),
            count=options.count,
            seed=options.seed,
            label=options.label,
        )
    if options.json:
        _print_json(asdict(found))
    else:
        print(
            f"wrote {found.count:,} samples, {' x '.join(map(str, found.shape))}, to {found.file}"
        )
    return 0


def import_(options: Namespace) -> int:
    """Bring in a model that a person already has."""
    values: dict[str, Any] = {
        "kind": "import",
        "weights": str(options.file.expanduser().absolute()),
    }
    for text in options.set:
        path, value = parse_change(text, form="field=value")
        change(values, path.split("."), value)
    recipe = _one(options.name, values)
    model = getattr(recipe[0].task, "model", None)
    if (
        isinstance(model, Module)
        and not (options.trust_code or is_trusted(model))
        and Path(model.factory.rpartition(":")[0]).is_file()
    ):
        raise BadInput(
            f"{model.factory} is Python code and would run with your rights. If you trust it, say "
            "so with --trust-code."
        )
    with _unnamed():
        return _run_all(options, recipe)


def _run_one(options: Namespace, name: str, values: Mapping[str, Any]) -> int:
    recipe = _one(name, values)
    with _unnamed():
        return _run_all(options, recipe)


def _one(name: str, values: Mapping[str, Any]) -> list[Entry]:
    with _unnamed():
        return entries({"task": [{**values, "name": name}]}, base=Path.cwd())


@contextlib.contextmanager
def _unnamed() -> Iterator[None]:
    """Faults of the only task are told without its name."""
    try:
        yield
    except SpecError as error:
        raise SpecError([Problem(p.path[1:], p.text) for p in error.problems]) from None


def _run_all(options: Namespace, recipe: Sequence[Entry]) -> int:
    secrets = _secrets(options)
    workspace = _workspace(options)
    _check_keys(workspace, recipe, secrets)
    label = f"{time.time():.3f}"
    with Stop() as stop:
        queue = enqueue(workspace, recipe, label=label, data_root=options.data_root)
        return _execute(options, workspace, queue, secrets, stop)


def _check_keys(workspace: Workspace, recipe: Sequence[Entry], secrets: Mapping[str, str]) -> None:
    """Raises BadInput for an encrypted model if there is nothing at all that could open it."""
    if secrets or (workspace.root / "keys" / "identity.txt").is_file():
        return
    for entry in recipe:
        named = (*references(entry.task).values(), getattr(entry.task, "weights", ""))
        for file in map(Path, named):
            if file.suffix == ".age" and file.is_file():
                raise BadInput(
                    f"{file} is encrypted, and nothing is given that opens it: name it with "
                    "--identity F or --passphrase-file F"
                )


def _execute(
    options: Namespace,
    workspace: Workspace,
    queue: Sequence[Run],
    secrets: Mapping[str, str],
    stop: Stop,
) -> int:
    def heed() -> None:
        if stop.asked == "cancelled":
            runner.cancel()
        elif stop.asked == "interrupted":
            runner.interrupt()

    logging.basicConfig(stream=sys.stderr, level=logging.CRITICAL)
    view = _Guarded(_Lines() if options.json else Screen(options.workspace))
    runner = Runner(
        workspace,
        view.hear,
        data_root=options.data_root,
        trust_code=options.trust_code,
        between=heed,
    )
    worst = 0
    try:
        for position, each in enumerate(queue):
            if stop.asked:
                runner.skip(each, "the recipe was cancelled")
                continue
            view.begin(each.info(), position + 1, len(queue))
            status = runner.run(each, secrets=secrets)
            view.end(each.info())
            worst = max(worst, _exit_code(status, runner.failure))
    finally:
        view.close()
    return CANCELLED if stop.asked else worst


def _exit_code(status: Status, failure: Exception | None) -> int:
    """Of one run; what was asked for and cannot be done is told from what failed."""
    if isinstance(failure, CrucibleError):
        return failure.exit_code
    return 1 if failure is not None else _EXIT.get(status, 1)


class _View(Protocol):
    """What a person or a program sees of a run."""

    def begin(self, info: RunInfo, position: int, count: int) -> None: ...
    def hear(self, run: Run, events: Sequence[Event]) -> None: ...
    def end(self, info: RunInfo) -> None: ...
    def close(self) -> None: ...


class _Guarded:
    """A view whose reader may go away, as `| head` or a terminal that is closed: it falls silent
    then, and the run goes on."""

    def __init__(self, view: _View) -> None:
        self._view = view
        self._silent = False

    def begin(self, info: RunInfo, position: int, count: int) -> None:
        self._try(lambda: self._view.begin(info, position, count))

    def hear(self, run: Run, events: Sequence[Event]) -> None:
        self._try(lambda: self._view.hear(run, events))

    def end(self, info: RunInfo) -> None:
        self._try(lambda: self._view.end(info))

    def close(self) -> None:
        self._try(self._view.close)

    def _try(self, show: Callable[[], None]) -> None:
        if self._silent:
            return
        try:
            show()
        except (OSError, SystemExit):  # rich leaves when its pipe breaks
            self._silent = True
            silence(sys.stdout)


def silence(stream: TextIO) -> None:
    """Send what is still to be written, at exit too, where it disturbs nobody."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


class _Lines:
    """One JSON object an event; of pictures only their names and captions."""

    def begin(self, info: RunInfo, position: int, count: int) -> None:
        self._print({"run": info.id, "event": "queued", "name": info.name, "kind": info.kind})

    def hear(self, run: Run, events: Sequence[Event]) -> None:
        for event in events:
            self._print({"run": run.id, **to_message(event)[0]})

    def end(self, info: RunInfo) -> None:
        if info.status == "skipped":
            self._print({"run": info.id, "event": "skipped", "error": info.error})

    def close(self) -> None:
        sys.stdout.flush()

    @staticmethod
    def _print(value: Mapping[str, Any]) -> None:
        _print_json(value)


# --- keys and files -------------------------------------------------------------------------------


def open_(options: Namespace) -> int:
    """Decrypt an exported model."""
    from engine.vault.opening import save_export

    secrets = _secrets(options)
    if not secrets:
        raise BadInput("say what opens it: --identity F or --passphrase-file F")
    with unwinding():
        card = save_export(
            options.file,
            options.to,
            identity=options.identity,
            passphrase=secrets.get("passphrase"),
        )
    print(f"{options.to}: {card.model.kind}, {len(card.classes)} classes, {card.weights_sha256}")
    return 0


def keygen(options: Namespace) -> int:
    """Make a key pair; the secret part is readable by its owner only."""
    from engine.vault.keys import generate_identity, write_identity

    identity = generate_identity()
    with unwinding():
        write_identity(options.to, identity)
    print(identity.recipient)
    return 0


def epsilon(options: Namespace) -> int:
    """Tell what private steps cost, or how much noise or how many steps a budget allows."""
    from engine import privacy

    noise, steps, target = options.noise_multiplier, options.steps, options.epsilon
    rate, delta = _ratio(options.sample_rate), options.delta
    if sum(value is None for value in (noise, steps, target)) != 1:
        raise BadInput("give two of --noise-multiplier, --steps and --epsilon: the third is told")
    if noise is None:
        noise = privacy.noise_multiplier(target, rate, steps, delta)
    elif steps is None:
        steps = privacy.steps_within(target, noise, rate, delta)
    charges = [privacy.Charge(noise, rate, steps)]
    pld, rdp = (privacy.total(charges, delta, accountant) for accountant in ("pld", "rdp"))
    prv = privacy.prv_bounds(charges, delta)
    if options.json:
        told = {"noise_multiplier": noise, "sample_rate": rate, "steps": steps, "delta": delta}
        spent = {"epsilon": pld, "epsilon_rdp": rdp}
        bounds = {"epsilon_prv_lower": prv.lower, "epsilon_prv": prv.upper}
        _print_json(told | spent | bounds)
        return 0
    between = f"{prv.lower:.4f} to {prv.upper:.4f}" if math.isfinite(prv.upper) else "no answer"
    for title, text in (
        ("noise multiplier", f"{noise:g}"),
        ("steps", f"{steps:,}, sample rate {rate:.6g}"),
        ("epsilon", f"{pld:.4f} at delta {delta:g} (PLD)"),
        ("epsilon by RDP", f"{rdp:.4f}"),
        ("epsilon by PRV", between),
    ):
        print(f"{title:<17} {text}")
    return 0


def federated(options: Namespace) -> int:
    """What a real deployment needs: certificates, and Flower's processes."""
    from engine.federated import console
    from engine.federated.hosting import watch

    match options.action:
        case "certificates":
            return console.certificates(options)
        case "port":
            return console.port()
        case "app":
            return console.app(options, {e.name: e.task for e in read_recipe(options.recipe)})
    with Stop() as stop:
        kept = console.started(options)
        code = watch(kept, lambda line: print(line, flush=True), lambda: bool(stop.asked))
    return 0 if stop.asked else code


def _ratio(text: str) -> float:
    """A number, or two with a stroke between them."""
    above, stroke, below = text.partition("/")
    try:
        return float(above) / float(below) if stroke else float(above)
    except (ValueError, ZeroDivisionError):
        raise BadInput(
            f"the sample rate {text!r} is no number; expected one as in 0.01 or 256/60000"
        ) from None


def worker(options: Namespace) -> int:
    """Be the window's engine process."""
    from engine.worker import main

    main(_workspace(options).root, options.data_root, options.trust_code)


def _secrets(options: Namespace) -> dict[str, str]:
    found: dict[str, str] = {}
    if options.identity is not None:
        from engine.vault.keys import read_identities

        read_identities(options.identity)  # raises now, not after an hour of training
        found["identity"] = str(options.identity.absolute())
    file = options.passphrase_file
    if file is not None:
        try:
            first = file.read_text(encoding="utf-8").split("\n", 1)[0].rstrip("\r")
        except OSError as error:
            raise BadInput(f"the passphrase file {file} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise BadInput(f"the passphrase file {file} is not text in UTF-8") from None
        if not first:
            raise BadInput(f"{file} is empty; its first line is taken as the passphrase")
        found["passphrase"] = first
    return found


# --- words ----------------------------------------------------------------------------------------


def _workspace(options: Namespace, create: bool = True) -> Workspace:
    return Workspace(options.workspace or default_workspace(), create)


def _print_json(value: Any, indent: int | None = None) -> None:
    """In ASCII, which every terminal and locale can print. JSON has no NaN: it becomes null."""
    try:
        text = json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), indent=indent)
    print(text, flush=True)


def _finite(value: Any) -> Any:
    match value:
        case float() if not math.isfinite(value):
            return None
        case Mapping():
            return {key: _finite(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_finite(inner) for inner in value]
    return value


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """The fields of a spec and of those inside of it, each as `--set` takes it."""
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{above}{name}.")
        else:
            found[above + name] = json.dumps(value, ensure_ascii=False)
    return found


def _first_sentence(text: str | None) -> str:
    return " ".join((text or "").split()).split(". ")[0].rstrip(".") + "."


COMMANDS: Mapping[str, Callable[[Namespace], int]] = {
    "tasks": tasks,
    "describe": describe,
    "run": run,
    "runs": runs,
    "show": show,
    "resume": resume,
    "export": export,
    "export-set": export_set,
    "explain": explain,
    "generate": generate,
    "open": open_,
    "import": import_,
    "keygen": keygen,
    "epsilon": epsilon,
    "federated": federated,
    "worker": worker,
}
