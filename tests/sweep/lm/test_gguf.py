"""A GGUF file becomes a model folder once, exactly, and never half."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from sweep.lm import gguf as gguf_module
from sweep.lm.find import ModelConfig, ModelError, find_model, model_hash
from sweep.lm.model import load_lm, load_tokenizer
from tests.conftest import VOCAB, some_text

gguf = pytest.importorskip("gguf")
from tests.sweep.lm.gguf_file import random_llama, write_gguf  # noqa: E402

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def model():
    return random_llama(VOCAB)


@pytest.fixture(scope="module")
def file(model, tokenizer, tmp_path_factory):
    """A GGUF file, alone in its folder."""
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", model, tokenizer)


@pytest.fixture
def tokens():
    return torch.randint(0, VOCAB, (3, 16), generator=torch.Generator().manual_seed(0))


def config_of(path, **settings):
    return ModelConfig(name="t", path=str(path), window=16, **settings)


def refusal(path, cache):
    with pytest.raises(ModelError) as refused:
        find_model(config_of(path), cache)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("alone_in_a_folder", [False, True])
def test_a_gguf_file_is_the_model_that_was_written(alone_in_a_folder, file, model, tokenizer, tokens, tmp_path, capfd):
    config = config_of(file.parent if alone_in_a_folder else file)
    capfd.readouterr()
    info = find_model(config, tmp_path)
    out, err = capfd.readouterr()
    assert out == "" and err.splitlines() == [f"converting {file} once, to {info.folder}"]
    assert info.folder.parent == tmp_path / "models" and info.gguf == file
    assert (info.architecture, info.d_model, info.n_layers, info.context) == ("llama", 64, 3, 64)
    lm = load_lm(config, info, CPU)
    with torch.inference_mode():
        theirs = model(tokens, output_hidden_states=True)
    assert torch.equal(lm.capture(tokens, [1])[1], theirs.hidden_states[2])
    assert torch.equal(lm.logits(tokens, 0, lambda h: None), theirs.logits)
    for text in some_text()[:5]:
        assert load_tokenizer(config, info)(text).input_ids == tokenizer(text).input_ids


def test_a_file_is_converted_once_and_known_by_its_content(file, tmp_path, capfd):
    info = find_model(config_of(file), tmp_path)
    capfd.readouterr()
    renamed = shutil.copy(file, tmp_path / "another name.gguf")
    assert find_model(config_of(file), tmp_path) == info
    again = find_model(config_of(renamed), tmp_path)
    assert again.folder == info.folder and capfd.readouterr() == ("", "")
    elsewhere = find_model(config_of(file), tmp_path / "other")
    written = elsewhere.folder / "config.json"
    written.write_text(written.read_text().replace('"transformers_version": "', '"transformers_version": "9'))
    hashes = {model_hash(info, tmp_path), model_hash(again, tmp_path), model_hash(elsewhere, tmp_path / "other")}
    assert len(hashes) == 1  # whatever transformers writes to the converted files
    changed = Path(shutil.copy(file, tmp_path / "changed.gguf"))
    data = bytearray(changed.read_bytes())
    data[-1] ^= 1
    changed.write_bytes(data)
    assert model_hash(find_model(config_of(changed), tmp_path), tmp_path) not in hashes


@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0", "BF16", "F16"])
def test_float32_holds_every_value_of_quantised_weights(kind, model, tokenizer, tmp_path):
    quantised = gguf.GGMLQuantizationType[kind]
    path = write_gguf(tmp_path / "q.gguf", model, tokenizer, quantised=quantised)
    folder = find_model(config_of(path), tmp_path).folder
    ours = AutoModelForCausalLM.from_pretrained(folder).state_dict()["model.layers.0.mlp.down_proj.weight"]
    weight = model.state_dict()["model.layers.0.mlp.down_proj.weight"].numpy()
    exact = gguf.quants.dequantize(gguf.quants.quantize(weight, quantised), quantised)
    assert ours.dtype == torch.float32 and torch.equal(ours, torch.from_numpy(exact))


def test_files_that_are_no_models_are_refused(file, model, tokenizer, tmp_path):
    folder = tmp_path / "several"
    folder.mkdir()
    for name in ("a", "b"):
        shutil.copy(file, folder / f"{name}.gguf")
    assert refusal(folder, tmp_path).endswith("holds 2 GGUF files (a.gguf, b.gguf): give the file itself")
    (tmp_path / "text.gguf").write_text("no model")
    assert "neither a model folder nor a GGUF file" in refusal(tmp_path / "text.gguf", tmp_path)
    strange = write_gguf(tmp_path / "strange.gguf", model, tokenizer, architecture="strange")
    assert "architecture strange is not supported" in refusal(strange, tmp_path)
    lacking = write_gguf(tmp_path / "lacking.gguf", model, tokenizer, leave_out=["blk.1.ffn_up"])
    assert "(missing: model.layers.1.mlp.up_proj.weight)" in refusal(lacking, tmp_path)
    assert not [*(tmp_path / "models").glob("gguf-*[0-9]"), *(tmp_path / "models").glob(".*")]
    with pytest.raises(ModelError, match="needs a cache_dir"):
        find_model(config_of(file))


@pytest.mark.parametrize("kept", [4, 30, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(kept, file, tmp_path):
    data = file.read_bytes()
    (tmp_path / "short.gguf").write_bytes(data[: int(kept if kept > 1 else kept * len(data))])
    assert "is not a whole GGUF file" in refusal(tmp_path / "short.gguf", tmp_path)
    assert not list((tmp_path / "models").glob("gguf-*[0-9]"))


def test_without_the_package_gguf_the_extra_is_named(file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "needs the extra gguf (pip install 'gguf>=0.17')" in refusal(file, tmp_path)


def test_too_small_a_disk_is_said_before(file, tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_module.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    said = refusal(file, tmp_path)
    assert "has 977 KiB free" in said and "set cache_dir" in said
    assert not list((tmp_path / "models").glob("gguf-*[0-9]"))


def test_a_killed_conversion_leaves_nothing_that_looks_complete(file, tmp_path):
    code = (
        "import sys, time; from pathlib import Path; import transformers\n"
        "from sweep.lm.find import ModelConfig, find_model\n"
        "transformers.PreTrainedTokenizerFast.save_pretrained = lambda *a, **k: time.sleep(60)\n"  # weights are written
        f"find_model(ModelConfig('t', path={str(file)!r}, window=16), Path({str(tmp_path)!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("models/.gguf-*/model.safetensors")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    models = tmp_path / "models"
    assert not [place for place in models.iterdir() if place.is_dir() and not place.name.startswith(".")]
    info = find_model(config_of(file), tmp_path)
    assert info.folder.is_dir() and not [place for place in models.iterdir() if place.name.startswith(".")]


def test_two_processes_that_need_a_file_convert_it_once(file, tmp_path):
    code = (
        "import sys; from pathlib import Path; from sweep.lm.find import ModelConfig, find_model\n"
        f"print(find_model(ModelConfig('t', path={str(file)!r}, window=16), Path({str(tmp_path)!r})).folder)"
    )
    start = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([sys.executable, "-c", code], **start) for _ in range(2)]
    ended = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0] and ended[0][0] == ended[1][0]
    assert sum("converting" in err for _, err in ended) == 1


def test_a_packages_file_is_found_without_importing_it(file, tmp_path, monkeypatch):
    package = tmp_path / "some_lm"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    shutil.copy(file, package / "tiny.gguf")
    config = ModelConfig(name="t", package="some_lm/tiny.gguf", hub_id="nobody/nothing", window=16)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"nobody/nothing.*install the package some-lm .*make smollm2"):
        find_model(config, tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert find_model(config, tmp_path).gguf == package / "tiny.gguf"
    assert find_model(config_of(file.parent, package="some_lm/tiny.gguf"), tmp_path).gguf == file
