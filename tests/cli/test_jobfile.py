"""Job files: what becomes of them, and every mistake in one line."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cli.errors import UserError
from cli.jobfile import escrow_wei, load_job
from learner import presets
from learner.architecture import Model
from learner.manifest import Adam
from learner.presets import mlp
from node import unixfs

EXAMPLE = Path(__file__).parent.parent.parent / "configs" / "jobs" / "digits.toml"
NOW = 1_800_000_000.7


def test_the_example_becomes_the_job_that_it_describes() -> None:
    spec = load_job(EXAMPLE, NOW)
    assert (spec.dataset, spec.model, spec.goal_accuracy, spec.seed) == ("digits", mlp((64, 64, 10)), 0.95, 0)
    assert (spec.terms.reward_wei, spec.terms.stake_wei) == (str(10**16), str(10**17))
    assert spec.terms.deadline == int(NOW) + 86_400
    assert escrow_wei(spec.terms) == 10**16 * 3 * 60


@pytest.mark.parametrize("dataset", ["flowers", "0x" + "ab" * 32, unixfs.cid(bytes(32), 5), unixfs.cid(bytes(32), 1e6)])
def test_a_dataset_goes_by_name_digest_or_cid(tmp_path: Path, dataset: str) -> None:
    assert load_job(edited(tmp_path, '"digits"', f'"{dataset}"'), NOW).dataset == dataset


def edited(folder: Path, old: str, new: str) -> Path:
    text = EXAMPLE.read_text()
    assert old in text
    path = folder / "job.toml"
    path.write_text(text.replace(old, new))
    return path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps = 10", "stpes = 10", "unknown key `stpes` in [job] of {path} (did you mean `steps`?)"),
        ("slots = 3", "slotz = 3", "unknown key `slotz` in [terms] of {path} (did you mean `slots`?)"),
        ("[terms]", "[term]", "{path}: `term` is not known here; a job file has the tables [job] and [terms]"),
        ("[job]", "kind = 1\n[job]", "{path}: `kind` is not known here"),
        ("batch_size = 32\n", "", "missing key `batch_size` in [job] of {path}"),
        ("batch_size = 32", "batch_size = '32'", "`batch_size` in [job] of {path}: expected a whole number, got '32'"),
        ("batch_size = 32", "batch_size = 0", "`batch_size` in [job] of {path}"),
        ("steps = 10 ", "steps = true ", "`steps` in [job] of {path}: expected a whole number, got True"),
        ('model = "mlp"', 'model = "oracle"', "unknown model 'oracle' (known: mlp, logistic_regression, linear_reg"),
        ('model = "mlp"', 'model = "transformer"', "`input` in [job] of {path}: missing; the model transformer needs"),
        ('model = "mlp"', 'model = "none.json"', "`sizes` in [job] of {path}: not together with a file of layers"),
        ("sizes = [64, 64, 10]", "", "`sizes` in [job] of {path}: missing; the model mlp needs it"),
        (
            "sizes = [64, 64, 10]",
            "sizes = [64, 64, 10]\nheads = 2",
            "`heads` in [job] of {path}: the model mlp does not",
        ),
        ("sizes = [64, 64, 10]", "input = [8]\nclasses = 1", "`sizes` in [job] of {path}: missing"),
        ("[64, 64, 10]", "[64, 64, 1]", "`model.layers[2]` in [job] of {path}: must have at least 2 outputs"),
        ("momentum = 0.5", "optimiser = 'lion'", "`optimiser` in [job] of {path}: expected sgd or adam"),
        ("momentum = 0.5", "beta2 = 0.9", "`beta2` in [job] of {path}: only with optimiser"),
        ("momentum = 0.5", "optimiser = 'adam'\nbeta2 = 2", "`beta2` in [job] of {path}"),
        ("momentum = 0.5", "weight_decay = -1", "`weight_decay` in [job] of {path}"),
        ("momentum = 0.5", "bits = 15", "`bits` in [job] of {path}"),
        ("momentum = 0.5", "weights = 'mine'", "`weights` in [job] of {path}: 'mine' is not the CID or 0x digest"),
        ('dataset = "digits"', 'dataset = "My Digits"', "'My Digits' is not the name, CID or 0x digest of a dataset"),
        ('dataset = "digits"', 'dataset = "0x12"', "'0x12' is not the name, CID or 0x digest of a dataset"),
        ("[64, 64, 10]", "[64, 64, 11]", "digits needs 64 inputs and 10 outputs, got [64, 64, 11]"),
        ("[64, 64, 10]", "[64]", "`sizes` in [job] of {path}"),
        ("[64, 64, 10]", "[]", "`sizes` in [job] of {path}"),
        ("[64, 64, 10]", "[64, 0, 10]", "`sizes[1]` in [job] of {path}"),
        ("[64, 64, 10]", "[64, 'x', 10]", "`sizes` in [job] of {path}: expected a list of whole numbers"),
        ("learning_rate = 0.1", "learning_rate = -1", "`learning_rate` in [job] of {path}"),
        ("learning_rate = 0.1", "learning_rate = nan", "`learning_rate` in [job] of {path}"),
        ("momentum = 0.5", "momentum = 1.0", "`momentum` in [job] of {path}"),
        ("goal_accuracy = 0.95", "goal_accuracy = 95", "`goal_accuracy` in [job] of {path}"),
        ("seed = 0 ", "seed = -1 ", "`seed` in [job] of {path}: expected 0 to 2**63 - 1"),
        ('"0.01 flt"', "0.01", "`reward` in [terms] of {path}: 0.01 needs a unit"),
        ('"0.1 flt"', '"0.1 eth"', "`stake` in [terms] of {path}: unknown unit 'eth'"),
        ("slots = 3 ", "slots = 4 ", "`slots` in [terms] of {path}: expected an odd number to 31, got 4"),
        ("slots = 3 ", "slots = 33 ", "`slots` in [terms] of {path}: expected an odd number to 31, got 33"),
        ("workers_min = 3", "workers_min = 5", "`workers_min` in [terms] of {path}: expected 1 to `slots` = 3, got 5"),
        ("attempts_max = 3", "attempts_max = 256", "`attempts_max` in [terms] of {path}: expected 1 to 255, got 256"),
        ("grace_s = 60", "grace_s = -1", "`grace_s` in [terms] of {path}: expected at least 0, got -1"),
        ("deadline_s = 86400", "deadline_s = 1.5", "`deadline_s` in [terms] of {path}: expected a whole number"),
        ("auto_finalise = false", "auto_finalise = 0", "`auto_finalise` in [terms] of {path}: expected true or false"),
        ("grace_s = 60", "audit = 1.5", "`audit` in [terms] of {path}: expected a probability, 0 or 0.000001 to 1"),
        ("grace_s = 60", "audit = nan", "`audit` in [terms] of {path}: expected a probability"),
        ("grace_s = 60", "audit = 1e-9", "`audit` in [terms] of {path}: expected a probability"),
        ("grace_s = 60", "audit = 0.1", "`audit_fee` in [terms] of {path}: missing; who audits for nothing?"),
        ("grace_s = 60", "audit_fee = '1 wei'", "`audit_fee` in [terms] of {path}: only with `audit`"),
        ("grace_s = 60", "audit_window_s = 0", "`audit_window_s` in [terms] of {path}: expected 1 to 31536000, got 0"),
        ("grace_s = 60", "appeal_bond = '1 wei'", "`appeal_bond` in [terms] of {path}: only with `appeal_window_s`"),
        (
            "grace_s = 60",
            "appeal_window_s = 9\naudit_fee = '2 wei'\nappeal_bond = '1 wei'",
            "`appeal_bond` in [terms] of {path}: it has to cover `audit_fee`",
        ),
        (
            "auto_finalise = false",
            "auto_finalise = true\nappeal_window_s = 9\naudit_fee = '2 wei'",
            "`appeal_window_s` in [terms] of {path}: with `auto_finalise` there is no time for appeals",
        ),
        ("[job]", "[job", "{path} is not valid TOML"),
    ],
)
def test_every_mistake_is_one_line_that_names_the_key_and_the_file(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = edited(tmp_path, old, new)
    with pytest.raises(UserError) as caught:
        load_job(path, NOW)
    assert message.format(path=path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_audits_and_appeals_cost_a_fee_in_each_round_and_a_bond_of_twice_that(tmp_path: Path) -> None:
    lines = 'audit = 0.05\naudit_fee = "0.04 flt"\nappeal_window_s = 60\ngrace_s = 60'
    terms = load_job(edited(tmp_path, "grace_s = 60", lines), NOW).terms
    assert (terms.audit_ppm, terms.audit_fee_wei, terms.appeal_window_s) == (50_000, str(4 * 10**16), 60)
    assert terms.appeal_bond_wei == str(8 * 10**16)
    assert escrow_wei(terms) == (10**16 * 3 + 4 * 10**16) * 60


def test_a_pool_of_one_without_audits_is_warned_of(tmp_path: Path) -> None:
    said: list[str] = []
    path = edited(tmp_path, "slots = 3 ", "slots = 1 ")
    path.write_text(path.read_text().replace("workers_min = 3", "workers_min = 1"))
    load_job(path, NOW, said.append)
    assert said == ["slots = 1 without `audit`: whatever the one worker reveals is believed and paid"]
    path.write_text(path.read_text().replace("[terms]", '[terms]\naudit = 0.05\naudit_fee = "1 wei"'))
    load_job(path, NOW, said.append)
    assert len(said) == 1


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"#" * ((1 << 20) + 1)])
def test_a_file_that_cannot_be_a_job_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "job.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"job\.toml"):
        load_job(path, NOW)


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ('model = "logistic_regression"\nsizes = [64, 10]', presets.logistic_regression(64, 10)),
        ('model = "linear_regression"\nsizes = [64, 10]', presets.linear_regression(64, 10)),
        ('model = "cnn"\ninput = [1, 8, 8]\nclasses = 10', presets.cnn((1, 8, 8), 10)),
        (
            'model = "cnn"\ninput = [1, 8, 8]\nclasses = 10\nchannels = [3]\nhidden = 5',
            presets.cnn((1, 8, 8), 10, (3,), 5),
        ),
        (
            'model = "transformer"\ninput = [8, 8]\nclasses = 10\nwidth = 8\nheads = 4\nblocks = 1\ncausal = true',
            presets.transformer((8, 8), 10, 8, 4, 1, True),
        ),
        ('model = "layers.json"', presets.transformer((8, 8), 10)),
    ],
)
def test_a_model_is_a_preset_with_its_sizes_or_a_file_of_layers(tmp_path: Path, text: str, model: Model) -> None:
    (tmp_path / "layers.json").write_bytes(msgspec.json.encode(presets.transformer((8, 8), 10)))
    path = edited(tmp_path, 'model = "mlp"        # linear layers with ReLU between them\nsizes = [64, 64, 10]', text)
    assert load_job(path, NOW).model == model


def test_the_optimiser_the_bits_and_the_first_weights_can_be_chosen(tmp_path: Path) -> None:
    cid = unixfs.cid(bytes(32), 5)
    lines = f'optimiser = "adam"\nbeta2 = 0.99\nweight_decay = 0.5\nbits = 8\nweights = "{cid}"\nmomentum = 0.5'
    spec = load_job(edited(tmp_path, "momentum = 0.5", lines), NOW)
    assert (spec.adam, spec.weight_decay, spec.bits, spec.weights) == (Adam(0.99), 0.5, 8, cid)


@pytest.mark.parametrize(
    "content", [None, b"[]", b"{", b"[" * 9999, b"\xff", b" " * 20_000, b'{"input": [64], "layers": []}']
)
def test_a_file_that_lists_no_layers_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "layers.json").write_bytes(content)
    path = edited(
        tmp_path,
        'model = "mlp"        # linear layers with ReLU between them\nsizes = [64, 64, 10]',
        'model = "layers.json"',
    )
    with pytest.raises(UserError, match=r"`model` in \[job\] of .*layers\.json"):
        load_job(path, NOW)
