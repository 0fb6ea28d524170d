"""A mix: every source passed as often as the plan says, evenly, from tokens that lie on disk once."""

import json
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from danlu.cli import main
from danlu.data.batches import batch, interleave, permute
from danlu.data.mix import Mix, Part, Parts, read_mix
from danlu.data.shards import open_shards
from danlu.errors import ConfigError
from danlu.types import IGNORED, BatchPlan, Stretch

PLAN = BatchPlan(32, (Stretch(0, 16, 64),))


@pytest.fixture
def sources(tmp_path, texts):
    """Three files of 180, 120 and 100 documents, told apart by their last sentence."""
    found, start = {}, 0
    for name, count in (("a", 180), ("b", 120), ("c", 100)):
        path = found[name] = tmp_path / f"{name}.jsonl"
        rows = (json.dumps({"text": f"{t}来自{name}"}, ensure_ascii=False) for t in texts[start : start + count])
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")
        start += count
    return found


def write_mix(tmp_path, rows):
    path = tmp_path / "mix.toml"
    path.write_text(
        "".join("[[source]]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in row.items()) for row in rows)
    )
    return path


def prepared(mix, tokenizer_folder, out, *flags):
    return main(
        ["prepare", "--mix", str(mix), "--tokenizer", str(tokenizer_folder), "--out", str(out), "--json", *flags]
    )


@pytest.fixture
def mixed(sources, tokenizer_folder, tmp_path, capsys):
    """Make shards of the three sources with the given settings; return them and what was printed as JSON."""

    def make(**settings):
        rows = [{"path": str(path), "name": name, **settings.get(name, {})} for name, path in sources.items()]
        out = tmp_path / "shards"
        assert prepared(write_mix(tmp_path, rows), tokenizer_folder, out) == 0
        return open_shards(out), json.loads(capsys.readouterr().out.splitlines()[-1])

    return make


def numbers(shards, plan, seed, count):
    return shards.order(plan, seed, np.arange(count))


def test_without_a_mix_the_order_is_each_epochs_permutation(shards):
    n = shards.blocks_per_epoch(PLAN)
    expected = np.concatenate([permute(np.arange(n), n, 5, epoch) for epoch in range(3)])
    assert np.array_equal(numbers(shards, PLAN, 5, 3 * n), expected)


@pytest.mark.parametrize("sizes", [(1,), (3, 3), (1, 99), (5, 7, 11), (40, 1, 1, 8), (17, 16, 15, 14, 13)])
def test_sources_alternate_as_evenly_as_their_number_allows(sizes):
    total = sum(sizes)
    source, turn = interleave(np.arange(2 * total), sizes)
    for i, size in enumerate(sizes):
        assert turn[source == i].tolist() == list(range(2 * size))
        seen = 0
        for place, who in enumerate(source.tolist(), 1):
            seen += who == i
            assert abs(seen - Fraction(place * size, total)) < len(sizes)


def test_places_asked_for_out_of_the_middle_hold_the_same():
    source, turn = interleave(np.arange(1000), (9, 4, 30))
    for start in (0, 1, 42, 43, 500):
        part = interleave(np.arange(start, start + 57), (9, 4, 30))
        assert np.array_equal(part[0], source[start : start + 57])
        assert np.array_equal(part[1], turn[start : start + 57])


def test_an_epoch_of_the_mix_scores_every_token_as_often_as_its_sources_epochs(mixed):
    shards, said = mixed(a={"epochs": 1}, b={"epochs": 3}, c={"epochs": 2})
    assert [entry["epochs"] for entry in said["mix"]] == [1, 3, 2]
    stream = shards.split("train").read(0, len(shards.split("train")))
    before = np.concatenate([[shards.eos_id], stream[:-1]])
    expected, start = Counter(), 0
    for entry, times in zip(said["mix"], (1, 3, 2), strict=True):
        stop = start + entry["tokens"]["train"]
        for pair in zip(before[start:stop].tolist(), stream[start:stop].tolist(), strict=True):
            expected[pair] += times
        start = stop
    assert start == len(stream)
    found = Counter()
    total = shards.blocks_per_epoch(PLAN)
    for number in numbers(shards, PLAN, 1, total).tolist():
        block = shards.block(PLAN, number)
        scored = block.labels_L != IGNORED
        found.update(zip(block.ids_L[scored].tolist(), block.labels_L[scored].tolist(), strict=True))
    assert found == expected


def test_blocks_hold_the_text_of_one_source(mixed, tokenizer):
    shards, _ = mixed(b={"epochs": 3})
    for number in range(sum(part.blocks(PLAN) for part in shards.parts.parts)):
        labels = shards.block(PLAN, number).labels_L
        text = tokenizer.decode(labels[labels != IGNORED].tolist())
        assert len({name for name in "abc" if f"来自{name}" in text}) <= 1


def test_half_an_epoch_reads_the_other_half_the_next_time(mixed):
    shards, _ = mixed(a={"epochs": 0.5})
    part = shards.parts.parts[0]
    blocks, each = part.blocks(PLAN), part.per_epoch(PLAN)
    order = numbers(shards, PLAN, 0, 4 * shards.blocks_per_epoch(PLAN))
    mine = order[order < blocks]
    assert each == round(blocks / 2)
    assert len(mine) == 4 * each
    for pass_ in range(len(mine) // blocks):
        assert sorted(mine[pass_ * blocks : (pass_ + 1) * blocks]) == list(range(blocks))


def test_copies_of_a_block_are_a_pass_apart_and_not_in_one_batch_of_few(mixed):
    shards, _ = mixed(c={"epochs": 6})
    passes = numbers(shards, PLAN, 3, shards.blocks_per_epoch(PLAN))
    first = sum(part.blocks(PLAN) for part in shards.parts.parts[:2])
    mine = passes[passes >= first]
    count = shards.parts.parts[2].blocks(PLAN)
    assert all(len(set(mine[i * count : (i + 1) * count])) == count for i in range(6))


def test_weights_are_the_shares_of_the_tokens_read_and_leave_none_out(mixed):
    shards, said = mixed(a={"weight": 1}, b={"weight": 2}, c={"weight": 5})
    entries = said["mix"]
    read = [entry["epochs"] * entry["tokens"]["train"] for entry in entries]
    assert [round(r / sum(read), 9) for r in read] == [1 / 8, 2 / 8, 5 / 8]
    assert [entry["share"] for entry in entries] == pytest.approx([1 / 8, 2 / 8, 5 / 8])
    assert min(entry["epochs"] for entry in entries) == 1
    labels = [shards.block(PLAN, n).labels_L for n in numbers(shards, PLAN, 0, shards.blocks_per_epoch(PLAN)).tolist()]
    scored = sum(int((row != IGNORED).sum()) for row in labels)
    assert scored == pytest.approx(shards.manifest["epoch_tokens"], rel=0.02)


def test_padded_rows_are_mixed_too(mixed):
    shards, _ = mixed(b={"epochs": 2})
    plan = replace(PLAN, packing="padded")
    documents = [part.documents for part in shards.parts.parts]
    counts = Counter(numbers(shards, plan, 0, shards.blocks_per_epoch(plan)).tolist())
    a, b, _ = documents
    assert counts == {n: 2 if a <= n < a + b else 1 for n in range(sum(documents))}


def test_a_batch_of_a_mix_is_pure(mixed):
    shards, _ = mixed(b={"epochs": 1.7})
    first = batch(shards, PLAN, 3, 11)
    batch(shards, PLAN, 3, 90)
    assert torch.equal(batch(open_shards(shards.folder), PLAN, 3, 11).ids_BT, first.ids_BT)
    assert not torch.equal(batch(shards, PLAN, 4, 11).ids_BT, first.ids_BT)


def test_replayed_text_keeps_the_shares_of_the_mix():
    parts = Parts((Part(range(3200), 10), Part(range(3200, 4800), 10, epochs=6.0)))  # 100 and 50 blocks; 100, 300 read
    chosen = [parts.evenly(PLAN, i, 40) for i in range(40)]
    assert sum(number < 100 for number in chosen) == 10
    assert len(set(chosen)) == 40
    assert np.ptp([n for n in chosen if n < 100]) >= 90
    assert max(chosen) < 150


def test_counts_of_each_source_add_up(mixed, sources):
    shards, said = mixed(a={"weight": 2}, b={"weight": 1}, c={"weight": 1})
    for key in ("documents", "kept", "skipped", "characters"):
        assert said[key] == sum(entry[key] for entry in said["mix"])
    for split in ("train", "validation"):
        assert said["tokens"][split] == sum(entry["tokens"][split] for entry in said["mix"])
    assert [entry["documents"] for entry in said["mix"]] == [180, 120, 100]
    assert shards.manifest["sources"] == [str(path) for path in sources.values()]


def test_the_tokens_on_disk_are_those_without_a_mix(mixed, sources, tokenizer_folder, tmp_path):
    shards, _ = mixed(a={"epochs": 4}, b={"epochs": 0.5})
    plain = tmp_path / "plain"
    assert (
        main(["prepare", *map(str, sources.values()), "--tokenizer", str(tokenizer_folder), "--out", str(plain)]) == 0
    )
    other = open_shards(plain)
    assert other.manifest["splits"] == shards.manifest["splits"]
    assert other.address != shards.address  # a run does not go on with another mix
    assert not other.manifest.get("mix")


def test_copies_across_sources_are_dropped_and_fall_on_one_side(sources, tokenizer_folder, tmp_path, capsys):
    copied = sources["a"].read_text(encoding="utf-8")
    sources["b"].write_text(sources["b"].read_text(encoding="utf-8") + copied, encoding="utf-8")
    rows = [{"path": str(path), "name": name} for name, path in sources.items()]
    mix = write_mix(tmp_path, rows)
    assert prepared(mix, tokenizer_folder, tmp_path / "once") == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])["mix"]
    assert said[1]["dropped"] == {"duplicate": 180}
    assert prepared(mix, tokenizer_folder, tmp_path / "twice", "--no-dedup", "--validation-share", "0.3") == 0
    twice = open_shards(tmp_path / "twice")
    sides = [{tuple(d.tolist()) for d in twice.split(split).documents()} for split in ("train", "validation")]
    assert not sides[0] & sides[1]


def test_the_same_mix_again_does_nothing_and_another_does_not_overwrite(mixed, tokenizer_folder, tmp_path, capsys):
    mixed(a={"epochs": 2})
    mix = tmp_path / "mix.toml"
    assert prepared(mix, tokenizer_folder, tmp_path / "shards") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["already_prepared"]
    mix.write_text(mix.read_text().replace("epochs = 2", "epochs = 3"))
    assert prepared(mix, tokenizer_folder, tmp_path / "shards") == 2
    assert "exists" in capsys.readouterr().err


def test_each_source_may_name_its_own_text_key(tmp_path, texts, tokenizer_folder, capsys):
    for name, key in (("a", "text"), ("b", "content")):
        rows = (json.dumps({key: t + name}, ensure_ascii=False) for t in texts[:150])
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    rows = [{"path": str(tmp_path / "a.jsonl")}, {"path": str(tmp_path / "b.jsonl"), "text_key": "content"}]
    assert prepared(write_mix(tmp_path, rows), tokenizer_folder, tmp_path / "s") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["kept"] == 300


A, B = {"path": "a.jsonl"}, {"path": "b.jsonl"}
WRONG = {
    "both": ([{**A, "weight": 1.0, "epochs": 2.0}], "'a.jsonl': has both epochs and weight"),
    "half with weights": ([{**A, "weight": 1.0}, B], "'a.jsonl' has a weight, others none"),
    "weights and epochs": ([{**A, "epochs": 1.0}, {**B, "weight": 2.0}], "'b.jsonl' has a weight, others none"),
    "weight 0": ([{**A, "weight": 0.0}], "weight"),
    "epochs 0": ([{**A, "epochs": 0}], "epochs"),
    "below 0": ([{**A, "weight": -1.0}], "weight"),
    "no path": ([{"epochs": 1.0}], "path"),
    "an unknown key": ([{**A, "wieght": 1.0}], "did you mean `weight`?"),
    "twice": ([A, A], "'a.jsonl': is named twice"),
    "none": ([], "source"),
}


@pytest.mark.parametrize("case", WRONG)
def test_contradictions_are_one_line_that_names_them(case, tmp_path, tokenizer_folder, capsys):
    rows, part = WRONG[case]
    mix = write_mix(tmp_path, rows)
    assert prepared(mix, tokenizer_folder, tmp_path / "s") == 2
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert err.startswith("error: ")
    assert part in err
    assert "mix.toml" in err
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[source]\npath = "a"', r"Write \[\[source\]\]"),
        ('[[source]]\npth = "a"', "`source.0.pth` .did you mean `path`"),
        ('[[sources]]\npath = "a"', "`sources` .did you mean `source`"),
    ],
)
def test_a_slip_in_a_mix_file_is_told_with_what_is_meant(text, said, tmp_path):
    (tmp_path / "mix.toml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_mix(tmp_path / "mix.toml")


@pytest.mark.parametrize("text", ["[[source", "source = 3", "source = [1]", 'epochs = 2\n[[source]]\npath = "a"'])
def test_a_file_that_is_no_mix_is_one_line(text, tmp_path):
    (tmp_path / "mix.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"mix\.toml"):
        read_mix(tmp_path / "mix.toml")


def test_sources_that_are_not_there_overlap_or_hold_nothing_are_one_line(sources, tmp_path, tokenizer_folder, capsys):
    def said(*rows, flags=()):
        assert prepared(write_mix(tmp_path, rows), tokenizer_folder, tmp_path / "s", *flags) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    a = {"path": str(sources["a"])}
    assert "none.jsonl" in said(a, {"path": str(tmp_path / "none.jsonl")})
    assert "is read by two sources" in said(a, {"path": str(tmp_path / "[a].jsonl")})
    (tmp_path / "copy.jsonl").write_bytes(sources["a"].read_bytes())
    assert "leaves no document to train on" in said(a, {"path": str(tmp_path / "copy.jsonl"), "name": "copy"})
    assert main(["prepare", "x.jsonl", "--mix", "m", "--tokenizer", str(tokenizer_folder), "--out", "o"]) == 2
    assert "x.jsonl: is named beside --mix" in capsys.readouterr().err


def test_epochs_default_to_one_and_integers_are_taken():
    mix = Mix.model_validate({"source": [{"path": "a"}, {"path": "b", "epochs": 2}]})
    assert mix.epochs([10, 20]) == [1.0, 2.0]
    assert [row.name for row in mix.source] == ["a", "b"]
