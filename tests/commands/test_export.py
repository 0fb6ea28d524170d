"""`danlu export` from the command line: files that other programs open, or one line that says why not."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import gguf
import pytest
import torch
from safetensors.torch import load_file

import danlu
from danlu.checkpoint import load_model, load_tokenizer, save_checkpoint
from danlu.cli import main
from danlu.config import ArticleConfig
from danlu.model import build_model, lora
from danlu.tokenizer import TURN_END, Tokenizer

FILE = Path(__file__).parent.parent / "data" / "golden" / "blog_tiny.pt"


@pytest.fixture(scope="module")
def folder(random_model, tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "ckpt"
    save_checkpoint(path, random_model, tokenizer.ending_with(TURN_END))
    return path


@pytest.fixture(scope="module")
def article_folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "article"
    assert main(["import", str(FILE), "--out", str(path)]) == 0
    return path


def said(capsys, *argv):
    assert main(["export", *map(str, argv), "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def refused(capsys, *argv):
    assert main(["export", *map(str, argv)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def files_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# gguf


def test_a_gguf_file_has_its_modelfile_beside_it(folder, tmp_path, capsys):
    out = tmp_path / "new" / "model.gguf"
    result = said(capsys, folder, "--format", "gguf", "--out", out)
    assert (result["path"], result["format"], result["dtype"]) == (str(out), "gguf", "f32")
    assert result["bytes"] == out.stat().st_size
    assert files_in(out.parent) == {"model.gguf", "Modelfile"} == set(result["files"])
    assert (out.parent / "Modelfile").read_text().startswith("FROM ./model.gguf\n")
    assert out.stat().st_mode & 0o777 == (out.parent / "Modelfile").stat().st_mode & 0o777


def test_a_folder_gets_both_whole(folder, tmp_path, capsys):
    out = tmp_path / "small"
    result = said(capsys, folder, "--format", "gguf", "--dtype", "q8_0", "--out", out)
    assert result["path"] == str(out / "small-q8_0.gguf")
    assert files_in(out) == {"small-q8_0.gguf", "Modelfile", "manifest.json"}
    reader = gguf.GGUFReader(out / "small-q8_0.gguf")
    assert reader.fields["general.name"].contents() == "small"


def test_a_licence_that_is_given_is_written(folder, tmp_path, capsys):
    said(capsys, folder, "--format", "gguf", "--license", "apache-2.0", "--out", tmp_path / "x.gguf")
    assert gguf.GGUFReader(tmp_path / "x.gguf").fields["general.license"].contents() == "apache-2.0"
    said(capsys, folder, "--format", "hf", "--license", "apache-2.0", "--out", tmp_path / "hf")
    assert '\nlicense: "apache-2.0"\n' in (tmp_path / "hf" / "README.md").read_text()


def test_any_licence_leaves_the_card_readable(folder, tmp_path, capsys):
    yaml = pytest.importorskip("yaml")
    said(capsys, folder, "--format", "hf", "--license", 'foo: "bar" # 仅供研究', "--out", tmp_path / "hf")
    front = (tmp_path / "hf" / "README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(front)["license"] == 'foo: "bar" # 仅供研究'


# hf


@pytest.mark.parametrize(("flags", "dtype"), [([], torch.float32), (["--dtype", "bf16"], torch.bfloat16)])
def test_a_folder_for_transformers_computes_the_same(flags, dtype, folder, tmp_path, capsys):
    transformers = pytest.importorskip("transformers")
    out = tmp_path / "hf"
    result = said(capsys, folder, "--format", "hf", *flags, "--out", out)
    assert result["bytes"] == sum(path.stat().st_size for path in out.iterdir())
    assert files_in(out) == {
        "README.md",
        "config.json",
        "generation_config.json",
        "manifest.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert theirs.dtype == dtype
    config = json.loads((out / "config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == str(dtype).removeprefix("torch.")
    rounded = {name: weight.to(dtype) for name, weight in load_model(folder).state_dict().items()}
    assert all(torch.equal(load_file(out / "model.safetensors")[name], rounded[name]) for name in rounded)
    ids = torch.tensor([load_tokenizer(out).encode("长江位于")])
    with torch.no_grad():
        torch.testing.assert_close(theirs.float()(ids).logits, load_model(out)(ids).logits_BTV, rtol=1e-4, atol=1e-4)


def test_sampling_settings_that_were_edited_come_along(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "c")
    (tmp_path / "c" / "generation_config.json").write_text('{"temperature": 0.1, "eos_token_id": [2, 0]}')
    said(capsys, tmp_path / "c", "--format", "hf", "--out", tmp_path / "hf")
    assert json.loads((tmp_path / "hf" / "generation_config.json").read_text())["temperature"] == 0.1
    said(capsys, tmp_path / "c", "--format", "gguf", "--out", tmp_path / "x.gguf")
    assert "PARAMETER temperature 0.1\n" in (tmp_path / "Modelfile").read_text()


def test_an_adapter_is_merged(folder, tmp_path, capsys):
    model = load_model(folder)
    lora.attach(model, lora.Adapter(4, 8.0, str(folder)), torch.Generator().manual_seed(1))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("lora_B"):
                p.normal_(generator=torch.Generator().manual_seed(2))
    save_checkpoint(tmp_path / "c", model, load_tokenizer(folder))
    expected = lora.plain_state(model)
    for number, source in enumerate((tmp_path / "c", tmp_path / "c" / "adapter")):
        said(capsys, source, "--format", "hf", "--out", tmp_path / f"hf{number}")
        found = load_file(tmp_path / f"hf{number}" / "model.safetensors")
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        said(capsys, source, "--format", "gguf", "--out", tmp_path / f"gguf{number}")


def test_the_articles_family_is_published_too(tokenizer, tmp_path, capsys):
    model = build_model(ArticleConfig(hidden_size=32, num_attention_heads=4), tokenizer.vocab_size, 32)
    save_checkpoint(tmp_path / "c", model, tokenizer)
    said(capsys, tmp_path / "c", "--format", "hf", "--out", tmp_path / "hf")
    assert "import danlu.hf" in (tmp_path / "hf" / "README.md").read_text()
    assert load_tokenizer(tmp_path / "hf").fingerprint == tokenizer.fingerprint
    danlu.load_model(tmp_path / "hf")


# article-pt


def test_the_articles_file_comes_back_as_it_was(article_folder, tmp_path, capsys):
    out = tmp_path / "article.pt"
    result = said(capsys, article_folder, "--format", "article-pt", "--out", out)
    assert result["bytes"] == out.stat().st_size
    ours, theirs = (torch.load(path, weights_only=True) for path in (out, FILE))
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert main(["import", str(out), "--out", str(tmp_path / "again")]) == 0


# What it refuses


def without_tokenizer(folder, tmp_path):
    save_checkpoint(tmp_path / "c", load_model(folder))
    return tmp_path / "c"


def not_finite(folder, tmp_path):
    model = load_model(folder)
    with torch.no_grad():
        model.model.norm.weight[0] = math.nan
    save_checkpoint(tmp_path / "c", model, load_tokenizer(folder))
    return tmp_path / "c"


def with_a_normaliser(folder, tmp_path):
    tokenizer = load_tokenizer(folder)
    structure = tokenizer.structure | {"normalizer": {"type": "NFC"}}
    save_checkpoint(tmp_path / "c", load_model(folder), Tokenizer(json.dumps(structure), tokenizer.config))
    return tmp_path / "c"


@pytest.mark.parametrize(
    ("make", "form", "word"),
    [
        (lambda folder, _: folder / "missing", "gguf", "no such folder"),
        (without_tokenizer, "gguf", "holds no tokenizer.json"),
        (without_tokenizer, "hf", "holds no tokenizer.json"),
        (not_finite, "gguf", "not finite"),
        (not_finite, "hf", "not finite"),
        (with_a_normaliser, "gguf", "normaliser (NFC)"),
        (lambda folder, _: folder, "article-pt", "family qwen3"),
    ],
)
def test_a_checkpoint_that_cannot_be_exported_so_is_one_line(make, form, word, folder, tmp_path, capsys):
    source = make(folder, tmp_path)
    before = set(tmp_path.iterdir())
    assert word in refused(capsys, source, "--format", form, "--out", tmp_path / "out" / "x.gguf")
    assert set(tmp_path.iterdir()) == before


def test_the_articles_family_is_no_gguf(article_folder, tmp_path, capsys):
    assert "danlu_article" in refused(capsys, article_folder, "--format", "gguf", "--out", tmp_path / "x.gguf")


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ([], "--format is missing"),
        (["--format", "onnx", "--out", "x"], "--format onnx"),
        (["--format", "hf"], "--out is missing"),
        (["--format", "gguf", "--dtype", "fp32", "--out", "x"], "f32 or f16 or bf16 or q8_0"),
        (["--format", "hf", "--dtype", "q8_0", "--out", "x"], "fp32 or bf16"),
        (["--format", "article-pt", "--dtype", "bf16", "--out", "x"], "fp32"),
        (["--format", "article-pt", "--license", "mit", "--out", "x"], "--license"),
    ],
)
def test_a_mistake_is_one_line(flags, word, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert word in refused(capsys, folder, *flags)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["gguf", "hf", "article-pt"])
@pytest.mark.parametrize("taken", ["x.gguf", "x"])
def test_what_exists_is_left_as_it_is(form, taken, folder, article_folder, tmp_path, capsys):
    (tmp_path / taken).write_text("mine")
    source = article_folder if form == "article-pt" else folder
    assert "exists already" in refused(capsys, source, "--format", form, "--out", tmp_path / taken)
    assert [path.name for path in tmp_path.iterdir()] == [taken]
    assert (tmp_path / taken).read_text() == "mine"


def test_a_modelfile_that_exists_is_left_as_it_is(folder, tmp_path, capsys):
    (tmp_path / "Modelfile").write_text("mine")
    made = said(capsys, folder, "--format", "gguf", "--out", tmp_path / "x.gguf")
    assert set(made["files"]) == {"x.gguf", "x.Modelfile"} == files_in(tmp_path) - {"Modelfile"}
    assert (tmp_path / "x.Modelfile").read_text().startswith("FROM ./x.gguf\n")
    assert (tmp_path / "Modelfile").read_text() == "mine"
    (tmp_path / "y.Modelfile").write_text("mine")
    error = refused(capsys, folder, "--format", "gguf", "--out", tmp_path / "y.gguf")
    assert f"{tmp_path / 'y.Modelfile'}: exists already" in error
    assert not (tmp_path / "y.gguf").exists()


def test_a_place_where_nothing_can_be_made(folder, capsys):
    error = refused(capsys, folder, "--format", "gguf", "--out", "/proc/a.gguf")
    assert "/proc: cannot be written" in error


def test_without_the_package_the_command_that_brings_it_is_named(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "[export]" in refused(capsys, folder, "--format", "gguf", "--out", tmp_path / "x.gguf")


@pytest.mark.parametrize(
    ("form", "out"), [("gguf", "out/x.gguf"), ("gguf", "out"), ("hf", "out"), ("article-pt", "out/a.pt")]
)
def test_a_full_disk_is_one_line_and_leaves_nothing(form, out, folder, article_folder, tmp_path):
    """A limit on file size stands in for a full disk: the write fails in the same place."""
    source, limit = (article_folder, 5_000) if form == "article-pt" else (folder, 20_000)
    code = (
        "import resource, sys; from danlu.cli import main; "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); sys.exit(main(sys.argv[1:]))"
    )
    argv = [sys.executable, "-c", code, "export", str(source), "--format", form, "--out", out]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("error: ")
    assert "no space left" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not files_in(tmp_path)
