"""What dictionary_learning loads of our exports, and that `ae.pt` holds tensors alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from sae_core.arms import DenseTied, Expander
from sae_core.formats import FormatError, export
from sae_core.inference import infer_by
from tests.contracts.test_arms import D, K, M, N
from tests.sae_core.formats.cases import ABOUT, ARMS, Reading, activations, check_alike, identified, ours, trained


@pytest.mark.parametrize("arm", ARMS, ids=identified)
def test_every_arm_that_it_can_express_reads_the_same(arm, tmp_path):
    library: Any = pytest.importorskip("dictionary_learning.utils", reason="dictionary-learning is not installed")
    sae, h = trained(arm), activations()
    try:
        export(sae, "dictionary_learning", tmp_path, ABOUT)
    except FormatError as error:
        assert "nearest is" in str(error) and not list(tmp_path.iterdir())
        return
    loaded, config = library.load_dictionary(str(tmp_path), "cpu")
    with torch.no_grad():
        codes = loaded.encode(h)
        found = Reading(codes, loaded.decode(codes))
    expected = ours(sae, h)
    same = (expected.codes >= 0).all(1) & ((expected.codes != 0).sum(1) < 4 * K)
    check_alike(found, expected, same)
    assert (config["trainer"]["lm_name"], config["trainer"]["layer"]) == ("gpt-nonesuch", 3)


@pytest.mark.parametrize("encoder, dict_class", [("topk", "AutoEncoderTopK"), ("batch_topk", "BatchTopKSAE")])
def test_the_file_holds_tensors_alone_and_the_config_says_what_of(encoder, dict_class, tmp_path):
    sae = trained(DenseTied(N, K, encoder))
    files = export(sae, "dictionary_learning", tmp_path, ABOUT).files
    assert [file.name for file in files] == ["ae.pt", "config.json"]
    tensors = torch.load(tmp_path / "ae.pt", weights_only=True)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert shapes == {
        **{"encoder.weight": (N, M), "encoder.bias": (N,), "decoder.weight": (M, N), "b_dec": (M,)},
        **{"k": (), "threshold": ()},
    }
    config = json.loads((tmp_path / "config.json").read_text())
    trainer, buffer = config["trainer"], config["buffer"]
    assert (trainer["dict_class"], trainer["k"], trainer["layer"]) == (dict_class, K, 3)
    assert (trainer["activation_dim"], trainer["dict_size"], buffer["ctx_len"]) == (M, N, 128)
    assert int(tensors["k"]) == K and (float(tensors["threshold"]) > 0) == (encoder == "batch_topk")


def test_pursuit_is_refused_by_what_is_nearest(tmp_path):
    with pytest.raises(FormatError, match="no pursuit; nearest is topk"):
        export(infer_by(trained(Expander(N, D, K)), "mp"), "dictionary_learning", tmp_path, ABOUT)
    assert not list(tmp_path.iterdir())
