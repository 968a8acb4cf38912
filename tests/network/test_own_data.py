"""A person's own CSV file, from README's commands to a model that plain numpy scores as the chain does."""

from __future__ import annotations

import array
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cli.blob import fetch
from cli.local_network import Member, Node
from learner import data, manifest
from learner.machine import CPU
from learner.train import initial_bytes, load_samples, train_round
from node import unixfs
from node.api import schema
from tests.network.kit import LIMIT_S, Net, network

pytestmark = pytest.mark.network
ROOT = Path(__file__).parent.parent.parent
SERVER = Member("one", ("validator", "learning_server"))
WORKER = Member("worker", ("worker",))
WEAK = Member("weak", ("worker",))  # its operator gives a round a millisecond
FLNODE = (sys.executable, "-P", "-m", "cli.main")
FLOWERS = (ROOT / "docs" / "flowers.csv").read_text()

class Person:
    """Somebody at a shell, in a directory with README's names in it: `one` and `docs`."""

    def __init__(self, folder: Path, net: Net) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "one").symlink_to(net.nodes["one"].config.directory)
        (folder / "docs").symlink_to(ROOT / "docs")

    def run(self, line: str) -> str:
        """What a command prints; it has to succeed and to complain about nothing."""
        program, *arguments = shlex.split(line)
        command = {"flnode": FLNODE, "python": (sys.executable, "-I")}[program]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [*command, *arguments], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=LIMIT_S,
            check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def readme(language: str) -> str:
    """The block in this language of README's section."""
    section = (ROOT / "README.md").read_text().partition("## Train on your own data")[2].partition("\n## ")[0]
    block = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert block is not None
    return block[1]


def walk_through() -> list[str]:
    """The commands of README's section, for a job that is the network's first."""
    return re.sub(r"(flnode job \w+) 2 ", r"\1 1 ", readme("sh")).splitlines()


def test_readmes_commands_train_on_a_csv_file_and_numpy_alone_finds_the_same_score(tmp_path: Path) -> None:
    with network(tmp_path / "net", (SERVER, WORKER)) as net:
        net.start()
        net.wait_connected("worker", validators=1)
        person = Person(tmp_path / "person", net)
        said = {line: person.run(line) for line in walk_through()}
        detail = net.job("one", 1)
        assert detail.end_reason == "finished"
        score = next(text for line, text in said.items() if "score.py" in line)
        correct, total = map(int, re.findall(r"exact (\d+) of (\d+)", score)[0])
        assert correct / total == detail.accuracy[-1][1]
        assert score == readme("text")  # training is exact: on every machine the same
        rows = json.loads(person.run("flnode job predict 1 --data docs/flowers.csv --config one --json"))
        truth = [line.rpartition(",")[2] for line in FLOWERS.splitlines()[1:]]
        right = sum(row["name"] == kind for row, kind in zip(rows, truth, strict=True))
        assert right > 0.7 * len(truth)
        # Any node that is not the server has the model for the asking, from its peers, and the older ones too.
        config = net.nodes["worker"].config.directory
        # It has the dataset by its CID, and with it the card: names of columns and classes, and how to scale.
        ours, theirs = (json.loads(person.run(f"flnode data show {added(net)} --config {each} --json"))
                        for each in ("one", config))
        assert theirs == {**ours, "name": None}
        assert theirs["card"]["columns"] == ["sepal", "petal", "year"]
        assert json.loads(person.run(f"flnode job predict 1 --data docs/flowers.csv --config {config} --json")) == rows
        person.run(f"flnode job model 1 --out same.safetensors --config {config}")
        person.run(f"flnode job model 1 --round 2 --out second.npz --config {config}")
        same = person.run("python docs/score.py same.safetensors flowers.npz").splitlines()
        assert same == score.splitlines()[:2]  # and no third line: only a learning server keeps scores
        goes_on_with_its_own_batches(net, person)


def goes_on_with_its_own_batches(net: Net, person: Person) -> None:
    """A second job continues the first one's model over samples that its owner lists; the worker has both by CID."""
    model = net.job("one", 1).base
    person.run("flnode job new csv --dataset flowers --slots 1 --rounds 2 --out more.toml --config one")
    text = (person.folder / "more.toml").read_text()
    job = tomllib.loads(text)["job"]
    steps, size = job["steps"], job["batch_size"]
    lines = [",".join(str((7 * at + 3 * step) % 99) for at in range(size)) for step in range(2 * steps)]
    (person.folder / "own.csv").write_text("\n".join(lines) + "\n")
    (person.folder / "more.toml").write_text(
        text.replace("[job]\n", f'[job]\nweights = "{model}"\nbatches = "own.csv"\n')
    )
    person.run("flnode job submit more.toml --config one")
    person.run("flnode job watch 2 --config one")
    detail = net.job("one", 2)
    worker = net.nodes["worker"]
    assert (detail.end_reason, detail.rounds_settled, detail.workers[0].rounds_in_majority) == ("finished", 2, 2)
    assert int(detail.workers[0].earned_wei) == 2 * int(detail.terms.reward_wei)
    shown = person.run(f"flnode job indices 2 2 --config {worker.config.directory}")
    assert shown.splitlines() == lines[steps:]
    assert detail.rounds[0].update_digest == trained_here(net, detail, model, ",".join(lines[:steps]))


def trained_here(net: Net, detail: schema.JobDetail, base: str, samples_in_order: str) -> str:
    """The digest of a round from this model over these samples, computed by the test."""
    client = net.running["worker"].client
    described = manifest.decode(fetch(client, detail.manifest, manifest.MANIFEST_BYTES_MAX))
    samples = load_samples(data.decode(fetch(client, detail.dataset or "", 1 << 20)), CPU)
    row = array.array("I", map(int, samples_in_order.split(","))).tobytes()
    state = initial_bytes(described, fetch(client, base, described.update_size()))
    return "0x" + unixfs.digest_of(train_round(described, state, samples, bytes(32), row=row)).hex()


def added(net: Net) -> str:
    """The CID of the dataset that the person added."""
    return net.call("one", "fl_datasets", list[schema.DatasetInfo])[-1].cid


def weaken(node: Node) -> None:
    if node.member == WEAK:
        text = node.config.file.read_text()
        node.config.file.write_text(text.replace("job_timeout_s = 3600.0", "job_timeout_s = 0.001"))


def test_a_job_over_a_dataset_that_nobody_has_waits_names_it_and_goes_on_when_it_comes(tmp_path: Path) -> None:
    """And a worker for which the job is too much declines it before it has the dataset, and says why."""
    with network(tmp_path / "net", (SERVER, WORKER, WEAK), weaken) as net:
        net.start("one")
        net.wait_connected("one", validators=1)
        person = Person(tmp_path / "person", net)
        added = json.loads(person.run("flnode data add docs/flowers.csv --config one --json"))
        person.run("flnode job new logistic --dataset flowers --slots 1 --rounds 1 --out job.toml --config one")
        person.run("flnode job submit job.toml --config one")
        net.terminate("one")
        digest = added["digest"][2:]
        (net.nodes["one"].config.blobs_path / "public" / digest[:2] / digest).unlink()
        net.start("one", "worker", "weak")

        def says(text: str | None) -> bool:
            return text == f"dataset {added['cid']}: neither here nor at a connected peer"

        def waits() -> bool:
            status = net.status("worker")
            return status is not None and says(status.waiting_for)

        net.wait("the worker to look for the dataset", waits)
        assert says(net.job("worker", 1).waiting_for)
        assert net.job("one", 1).enrolled == 0
        declined = net.wait_job("weak", 1, "a weak worker to decline", lambda detail: bool(detail.declined)).declined
        assert declined is not None
        assert "with 1 thread of this machine; `job_timeout_s` in [learner] is 0.001" in declined
        assert net.call("weak", "fl_status", schema.Status).declined == {"1": declined}
        weak = net.nodes["weak"].config.directory
        assert declined in person.run(f"flnode status --config {weak}")
        assert declined in person.run(f"flnode job show 1 --config {weak}")
        assert "job.declined" in net.nodes["weak"].log.read_text()
        person.run("flnode job top-up 1 1 --config one")
        assert net.job("one", 1).terms.rounds_max == 2
        worker = net.call("worker", "fl_status", schema.Status)
        person.run(f"flnode account send {worker.address} '2.5 flt' --config one")
        account = json.loads(person.run("flnode account show --config one --json"))
        assert int(account["balance_wei"]) < 998 * 10**18
        person.run("flnode data add docs/flowers.csv --config one")
        detail = net.wait_ended("one", 1)
        assert (detail.end_reason, detail.rounds_settled) == ("finished", 2)
