"""flnode job new: a commented job file to start from, that `flnode job submit` takes as it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import click

from cli import job_model
from cli.client import Client
from cli.errors import UserError
from cli.jobfile import BUILT_IN
from cli.options import config_option, endpoint
from node.api import schema

HIDDEN: Final = 32  # width of the csv preset's hidden layer
BATCH_SIZE: Final = 32
STEPS_MIN, STEPS_MAX = 10, 200  # of one round; about one pass over the samples
PRESETS: Final = ("digits", "csv", "logistic", "cnn", "transformer")


@dataclass(frozen=True, slots=True)
class Plan:
    """What differs between job files. `goal` is the accuracy at which the job ends, 0 for all rounds."""

    about: str
    file: str
    dataset: str
    sizes: tuple[int, ...]  # of linear layers; of another model none
    model: str = "mlp"
    input: tuple[int, ...] = ()  # of another model than linear layers: a sample's shape
    classes: int = 0
    batch_size: int = BATCH_SIZE
    steps: int = 10
    learning_rate: float = 0.1
    momentum: float = 0.5
    goal: float = 0.0
    slots: int = 3
    rounds_max: int = 60


# preset -> what it is, and how many dimensions its samples have
WHAT: Final = {
    "csv": ("A small network", 1), "logistic": ("Logistic regression", 1), "cnn": ("Convolutions", 3),
    "transformer": ("A transformer", 2),
}  # fmt: skip
LEARNING_RATE: Final = {"cnn": 0.05, "transformer": 0.02}

DIGITS: Final = Plan(
    "The built-in handwritten digits (1,797 images of 8x8 pixels), until 95 % of the test images are right:",
    "configs/jobs/digits.toml", "digits", (64, 64, 10), goal=0.95,
)  # fmt: skip


@click.command()
@click.argument("preset", type=click.Choice(PRESETS))
@click.option("--dataset", help="Name, CID or 0x digest; see `flnode data list`.")
@click.option("--slots", type=click.IntRange(1, schema.SLOTS_MAX), default=3, show_default=True, help="Odd.")
@click.option("--rounds", type=click.IntRange(min=1), help="How many rounds the escrow pays for.")
@click.option("--out", type=click.Path(path_type=Path), help="The file to write.  [default: the dataset's name .toml]")
@config_option
@click.option("--url", envvar="FLNODE_URL", help="Ask the node at this HTTP address instead of the Unix socket.")
def new(
    preset: str, dataset: str | None, slots: int, rounds: int | None, out: Path | None, config: Path, url: str | None
) -> None:
    """Write a job file to start from: every key with a comment.

    \b
    digits      a small network over the built-in handwritten digits
    csv         the same over your own dataset (--dataset)
    logistic    logistic regression: no hidden layer
    cnn         convolutions, over images (--dataset, or the built-in digits)
    transformer attention between the rows of an image

    \b
    flnode job new digits --out job.toml
    flnode job new csv --dataset flowers --slots 1 --config ~/server
    """
    if slots % 2 == 0:
        raise UserError(f"--slots {slots}: expected an odd number, so that there is a majority")
    if preset == "digits" and dataset not in (None, "digits"):
        raise UserError(f"the preset digits is about the built-in digits; for {dataset} use `flnode job new csv`")
    if preset == "csv" and dataset is None:
        raise UserError("the preset csv needs --dataset; `flnode data list` shows the names")
    dataset = dataset or "digits"
    out = out or Path(f"{dataset}.toml")
    plan = DIGITS if preset == "digits" else _plan(preset, dataset, config, url)
    plan = replace(plan, file=str(out), slots=slots, rounds_max=rounds or plan.rounds_max)
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(render(plan))
    except FileExistsError:
        raise UserError(f"{out} exists already and is left as it is; choose another --out") from None
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from None
    click.echo(f"wrote {out}; look it over, then post it with `flnode job submit {out}`")


def _plan(preset: str, dataset: str, config: Path, url: str | None) -> Plan:
    """A job over any dataset; the node says how wide it is, unless it is built in."""
    train = 0
    if dataset in BUILT_IN:
        features, classes = BUILT_IN[dataset]
        shape = [8, 8]
    else:
        with Client(endpoint(config, url, None)) as client:
            info = client.call("fl_dataset", schema.DatasetInfo, {"dataset": dataset})
        features, classes, train, shape = info.features, info.classes, info.train, info.shape
    batch_size = min(BATCH_SIZE, train or BATCH_SIZE)
    sizes = {"csv": (features, HIDDEN, classes), "logistic": (features, classes)}.get(preset, ())
    about, rank = WHAT[preset]
    plan = Plan(
        about=f"{about} over the dataset {dataset}, for as many rounds as are paid:",
        file="", dataset=dataset, sizes=sizes, batch_size=batch_size,
        steps=max(STEPS_MIN, min(STEPS_MAX, train // batch_size)), momentum=0.9, rounds_max=20,
    )  # fmt: skip
    if sizes:
        return plan
    if len(shape) > rank or len(shape) < 2:
        raise UserError(f"a sample of {dataset} has the shape {shape}, which is no {'image' if rank == 3 else 'table'}")
    padded = (*(1 for _ in range(rank - len(shape))), *shape)
    return replace(plan, model=preset, input=padded, classes=classes, learning_rate=LEARNING_RATE[preset])


def render(plan: Plan) -> str:
    """The job file's text."""
    shape = "from the features to the classes" + ("" if len(plan.sizes) > 2 else "; none between: logistic regression")
    goal = ("goal_accuracy", str(plan.goal or 0.95), "leave it out to use all rounds")
    if not plan.goal:
        goal = ("# goal_accuracy", goal[1], "ends the job when so many test samples are right")
    if plan.sizes:
        form = [("sizes", str(list(plan.sizes)), shape)]
    else:
        form = [("input", str(list(plan.input)), "a sample's shape"), ("classes", str(plan.classes), "")]
    job = [
        ("dataset", f'"{plan.dataset}"', "its name, CID or 0x digest"),
        ("model", f'"{plan.model}"', job_model.PRESETS[plan.model].about),
        *form,
        ("batch_size", str(plan.batch_size), ""),
        ("steps", str(plan.steps), "of SGD, in each round"),
        ("learning_rate", str(plan.learning_rate), ""),
        ("momentum", str(plan.momentum), ""),
        goal,
        ("seed", "0", "decides the first weights and every batch"),
    ]
    terms = [
        ("reward", '"0.01 flt"', "for each slot and round, in wei, gwei or flt; or auto"),
        ("stake", '"0.1 flt"', "what a slot forfeits for wrong or missing work"),
        ("slots", str(plan.slots), "workers that compute each round; odd"),
        ("workers_min", str(plan.slots), "enrolled workers without which no round opens"),
        ("rounds_max", str(plan.rounds_max), ""),
        ("attempts_max", "3", "of one round, before the job ends as failed"),
        ("commit_window_s", "120", ""),
        ("reveal_window_s", "60", ""),
        ("last_call_s", "30", "granted once after each window"),
        ("grace_s", "60", "after which anyone may finalise a decided round"),
        ("deadline_s", "86400", "from posting"),
        ("auto_finalise", "false", "true: the deciding reveal finalises; then nobody looks at the accuracy"),
        ("# audit", "0.05", "probability that validators compute a round again; needed where slots = 1"),
        ("# audit_fee", '"0.04 flt"', "to the validators, for each audit; escrowed with each round"),
        ("# appeal_window_s", "60", "anyone may have a majority audited, who puts up twice the fee"),
    ]
    lines = [
        f"# {plan.about}", "#", f"#   flnode job submit {plan.file} --config DIR", "#",
        "# The escrow, (reward x slots + audit_fee) x rounds_max, is paid at once; what is not earned comes back.",
        "", "[job]", *_table(job), "", "[terms]", *_table(terms),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _table(rows: list[tuple[str, str, str]]) -> Iterator[str]:
    """`key = value`, and the comments below each other."""
    width = max(len(key) + len(value) for key, value, comment in rows if comment) + len(" = ")
    for key, value, comment in rows:
        text = f"{key} = {value}"
        yield f"{text:{width}} # {comment}" if comment else text
