"""What the runs of a process share: an LM that cannot be used is loaded once, and its text is checked in time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sweep.jobs.build import build_job
from sweep.lm.errors import ModelError
from sweep.run import loaded
from sweep.run.once import preflight
from tests.sweep.world import SMALL, composed


def job_on(folder, text, tmp_path, *overrides):
    places = [f"cache_dir={tmp_path / 'cache'}", f"runs_dir={tmp_path / 'runs'}"]
    given = ["model=local", f"model.path={folder}", f"corpus.path={text}", *SMALL, *places, *overrides]
    return build_job(composed(*given), "test")


def test_an_lm_that_cannot_be_used_is_loaded_once(model_folders, text_file, tmp_path, monkeypatch):
    job = job_on(model_folders["llama"], text_file, tmp_path)
    tried = []

    def refused(*_):
        tried.append(1)
        raise ModelError("no causal LM")

    monkeypatch.setattr(loaded, "load_lm", refused)
    loaded._lm.cache_clear()
    for _ in range(2):
        with pytest.raises(ModelError, match="no causal LM"):
            loaded.source_of(job, torch.device("cpu"))
    assert len(tried) == 1
    loaded._lm.cache_clear()


def test_tokens_that_the_lm_cannot_embed_are_found_before_any_training(tokenizer, text_file, tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    LlamaForCausalLM(LlamaConfig(vocab_size=350, **sizes)).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    job = job_on(tmp_path / "m", text_file, tmp_path)
    with pytest.raises(ModelError, match=r"token id \d+ must be in 0\.\.349: .* has 400 tokens, and .* 350 rows"):
        preflight(job)
    preflight(replace(job, info=replace(job.info, vocabulary=400)))


@pytest.mark.parametrize("special", [{}, {"bos_token": "<|endoftext|>"}, {"eos_token": "<|endoftext|>"}])
def test_a_tokenizer_may_lack_the_tokens_that_open_and_end_a_text(special, model_folders, text_file, tmp_path):
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    backend = AutoTokenizer.from_pretrained(model_folders["llama"]).backend_tokenizer
    LlamaForCausalLM.from_pretrained(model_folders["llama"]).save_pretrained(tmp_path / "m")
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(tmp_path / "m")
    job = job_on(tmp_path / "m", text_file, tmp_path, "corpus.bos=window")
    windows = loaded.train_windows_of(job)
    opened = set(windows.tokens[:, 0].tolist()) == {0}
    assert windows.n_tokens == 800 and opened == ("bos_token" in special)
