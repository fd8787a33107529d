"""Our sparse file as an SAE of SAELens: what SAELens' own tests ask of a class, for every arm, without dense atoms."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_core import io
from sae_core.arms import Expander, Imported, Kron, Quantised
from sae_core.formats import About, FormatError, export
from sae_core.formats.saelens_files import save_sparse
from sae_core.inference import infer_by
from tests.contracts.test_arms import IN_BASES, D, K, M, N
from tests.sae_core.formats.cases import ABOUT, ARMS, SCALE, activations, check_alike, identified, ours, trained
from tests.sae_core.formats.cases import Reading as Found

sae_lens: Any = pytest.importorskip("sae_lens", reason="extra bench is not installed")
compact: Any = pytest.importorskip("sae_core.formats.saelens", reason="extra bench is not installed")
registry: Any = pytest.importorskip("sae_lens.registry", reason="extra bench is not installed")

POINTS = ["hook_sae_input", "hook_sae_acts_post", "hook_sae_recons", "hook_sae_output"]  # in the order of firing


def expander(encoder: str = "topk") -> Any:
    return compact.ExpanderSAE.of(trained(Expander(N, D, K, encoder=encoder)), ABOUT)


@torch.no_grad()
def check_same(loaded: Any, sae: Any) -> None:
    """Assert that an SAE of SAELens has our codes and reconstructions."""
    h = activations()
    codes = loaded.encode(h)
    check_alike(Found(codes, loaded.decode(codes)), ours(sae, h), torch.ones(len(h), dtype=torch.bool))
    assert loaded(h).equal(loaded.decode(codes))


@pytest.mark.parametrize("arm", [*ARMS, *IN_BASES], ids=identified)
def test_every_arm_loads_as_it_lies_on_disk_and_reads_the_same(arm, tmp_path):
    sae = trained(arm)
    io.save(sae, tmp_path / "ours")
    loaded = compact.load(tmp_path / "ours")
    check_same(loaded, sae)
    decoder, b_dec, codes = loaded.W_dec, loaded.b_dec, loaded.encode(activations())
    assert decoder.shape == (loaded.cfg.d_sae, M) and b_dec.shape == (M,)
    torch.testing.assert_close(codes @ decoder + b_dec, loaded.decode(codes), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(loaded.get_W_dec_norm(), decoder.norm(dim=1), rtol=1e-5, atol=0)
    loaded.save_model(tmp_path / "theirs")
    again = sae_lens.SAE.load_from_disk(tmp_path / "theirs")
    assert type(again) is compact.ExpanderSAE
    check_same(again, sae)
    converted = sae_lens.SAE.load_from_disk(tmp_path / "ours", converter=compact.disk_loader)
    check_same(converted, sae)


@pytest.mark.parametrize("encoder", ["topk", "mp_refit"])
def test_it_loads_what_the_export_writes_without_saelens(encoder, tmp_path):
    sae = trained(Expander(N, D, K, encoder=encoder))
    save_sparse(sae, tmp_path, ABOUT)
    loaded = sae_lens.SAE.load_from_disk(tmp_path)
    check_same(loaded, sae)
    assert loaded.cfg.metadata.hook_name == "blocks.3.hook_resid_post"
    with pytest.raises(FormatError, match="is there already"):
        save_sparse(sae, tmp_path, ABOUT)


@pytest.mark.parametrize("inference", ["topk", "mp", "omp", "refit"])
def test_any_reading_can_be_used_and_all_but_refit_saved(inference, tmp_path):
    sae = trained(Expander(N, D, K, encoder="mp_refit"))
    io.save(sae, tmp_path / "ours")
    loaded, read = compact.load(tmp_path / "ours", inference=inference), infer_by(sae, inference)
    check_same(loaded, read)
    if inference == "refit":
        with pytest.raises(ValueError, match="refit, which a file cannot hold"):
            loaded.save_model(tmp_path / "theirs")
        return
    loaded.save_model(tmp_path / "theirs")
    check_same(sae_lens.SAE.load_from_disk(tmp_path / "theirs"), read)


def test_an_imported_sae_and_packed_atoms(tmp_path):
    export(trained(Expander(N, D, K)), "saelens", tmp_path / "dense")
    imported = Imported(K, str(tmp_path / "dense")).build(M, 0)
    check_same(compact.ExpanderSAE.of(imported), imported)
    sae = trained(Quantised(Expander(N, D, K), 4))
    io.save(sae, tmp_path / "bits")
    packed = compact.load(tmp_path / "bits", keep_packed=True)
    check_same(packed, sae)
    with pytest.raises(ValueError, match="packed for inference"):
        packed.save_model(tmp_path / "again")


@pytest.mark.parametrize("encoder", ["topk", "batch_topk", "mp_refit"])
def test_batches_of_any_shape_and_the_error_term(encoder):
    sae, h = expander(encoder), activations()
    flat = sae.encode(h)
    nested = sae.encode(h.view(2, 4, -1, M))
    assert nested.shape == (2, 4, len(h) // 8, N) and nested.view(-1, N).equal(flat)
    assert sae.decode(nested).view(-1, M).equal(sae.decode(flat))
    assert sae.encode(h[0]).equal(flat[0]) and sae.decode(flat[0]).shape == (M,)
    with pytest.warns(DeprecationWarning, match="use_error_term"):
        sae.use_error_term = True
    torch.testing.assert_close(sae(h), h)
    sae.add_hook("hook_sae_acts_post", lambda codes, hook: torch.zeros_like(codes))
    torch.testing.assert_close(sae(h), h - sae.decode(flat) + sae.b_dec)


def test_hook_points_fire_and_can_change_what_goes_on():
    sae, h, fired = expander(), activations(), []
    plain = sae(h)
    out = sae.run_with_hooks(h, fwd_hooks=[(point, lambda x, hook: fired.append(hook.name)) for point in POINTS])
    assert fired == POINTS and out.equal(plain)
    _, cache = sae.run_with_cache(h)
    assert set(cache) == set(POINTS)
    assert cache["hook_sae_input"].equal(h) and cache["hook_sae_acts_post"].equal(sae.encode(h))
    ablated = sae.run_with_hooks(h, fwd_hooks=[("hook_sae_acts_post", lambda codes, hook: codes * 0)])
    torch.testing.assert_close(ablated, sae.b_dec.expand(len(h), -1))
    torch.testing.assert_close(sae.process_sae_in(h), h - sae.b_dec)


def test_gradients_reach_the_input_and_every_latent():
    sae, h = expander(), activations().requires_grad_()
    found = sae.run_with_hooks(h, fwd_hooks=[("hook_sae_acts_post", lambda codes, hook: codes.retain_grad())])
    found.sum().backward()
    assert bool(h.grad.abs().sum(1).all())
    codes = torch.zeros(2, N, requires_grad=True)
    sae.decode(codes)[:, 3].sum().backward()
    torch.testing.assert_close(codes.grad, sae.W_dec[:, 3].expand(2, -1))


def test_the_config_comes_back_from_a_dict():
    sae = expander()
    sae.state_dict()
    config = sae.cfg
    again = registry.get_sae_class("expander")[1].from_dict(config.to_dict())
    assert type(again) is compact.ExpanderSAEConfig and again.to_dict() == config.to_dict()
    assert config.to_dict()["architecture"] == "expander" and config.stored["degree"] == D
    built = sae_lens.SAE.from_dict(config.to_dict())
    built.load_state_dict(sae.state_dict())
    assert built(activations()).equal(sae(activations()))
    assert sae.get_name() == f"sae_gpt-nonesuch_blocks.3.hook_resid_post_{N}"
    assert (config.metadata.context_size, config.metadata.dataset_path) == (128, "some/text")


@pytest.mark.parametrize("setting", [{"apply_b_dec_to_input": False}, {"normalize_activations": "layer_norm"}])
def test_settings_under_which_it_would_be_read_otherwise_are_refused(setting):
    (key,) = setting
    with pytest.raises(ValueError, match=f"{key}=.* must be .* in an SAE of architecture expander"):
        compact.ExpanderSAEConfig(M, N, **setting)


def test_without_weights_or_with_others_it_says_so():
    sae = expander()
    tensors = sae.state_dict()
    empty = sae_lens.SAE.from_dict(sae.cfg.to_dict())
    with pytest.raises(ValueError, match="has no weights yet"):
        empty.encode(activations())
    with pytest.raises(io.SAEFileError, match="asks for values of shape"):
        empty.load_state_dict(tensors | {"values": tensors["values"][:3]})
    empty.cfg.stored = {}
    with pytest.raises(io.SAEFileError, match="is not an SAE config"):
        empty.load_state_dict(tensors)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes(dtype, tmp_path):
    sae, h = expander(), activations()
    exact = sae(h)
    sae.to(dtype)
    assert sae.cfg.dtype == str(dtype).removeprefix("torch.") and sae.dtype == dtype
    codes = sae.encode(h)
    assert codes.dtype == sae.decode(codes).dtype == sae.W_dec.dtype == sae.b_dec.dtype == dtype
    near = 1e-5 if dtype == torch.float64 else 0.1  # rounded inputs change some picks
    assert float((sae(h).float() - exact).norm() / exact.norm()) < near
    sae.save_model(tmp_path)
    loaded = sae_lens.SAE.load_from_disk(tmp_path)
    assert loaded.dtype == dtype and float((loaded(h).float() - exact).norm() / exact.norm()) < near
    assert sae_lens.SAE.load_from_disk(tmp_path, dtype="float32").encode(h).dtype == torch.float32


def test_devices():
    sae = expander().to("meta")
    assert {str(parameter.device) for parameter in sae.parameters()} == {"meta"} == {str(sae.device)}
    assert sae.cfg.device == "meta" and len(list(expander().parameters())) == 3


@pytest.mark.parametrize("encoder", ["topk", "batch_topk", "mp_refit"])
def test_folding_the_decoders_norm_measures_codes_in_the_inputs_units(encoder, tmp_path):
    sae, h = expander(encoder), activations()
    before, out = sae.encode(h), sae(h)
    norms = sae.fold_and_get_W_dec_norm()
    torch.testing.assert_close(norms, torch.full((N,), 1 / SCALE))
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(N))
    torch.testing.assert_close(sae.encode(h), before / SCALE)
    torch.testing.assert_close(sae(h), out)
    sae.fold_W_dec_norm()  # once more changes nothing
    sae.save_model(tmp_path)
    again = sae_lens.SAE.load_from_disk(tmp_path, fold_W_dec_norm=True)
    torch.testing.assert_close(again.encode(h), before / SCALE)


@pytest.mark.parametrize("folded", [False, True])
def test_folding_the_scaling_of_activations(folded, tmp_path):
    sae, h = expander("mp_refit"), activations()
    if folded:
        sae.fold_W_dec_norm()
    codes, out, decoder = sae.encode(h), sae(h), sae.W_dec
    sae.fold_activation_norm_scaling_factor(4.0)
    torch.testing.assert_close(sae.encode(h / 4), codes)
    torch.testing.assert_close(sae(h / 4), out / 4)
    torch.testing.assert_close(sae.W_dec, decoder / 4)
    sae.save_model(tmp_path)
    assert sae_lens.SAE.load_from_disk(tmp_path)(h / 4).equal(sae(h / 4))


def test_what_has_no_meaning_for_sparse_atoms_is_refused():
    with pytest.raises(NotImplementedError, match="whitening cannot be folded into sparse atoms"):
        expander().fold_activation_whitening(torch.zeros(M), torch.eye(M), torch.eye(M))
    assert not hasattr(expander("mp_refit"), "b_enc")
    with pytest.raises(NotImplementedError, match="products of pre-latents"):
        assert compact.ExpanderSAE.of(trained(Kron(N, K))).W_enc is None


@pytest.mark.parametrize("folded", [False, True])
def test_w_enc_are_the_weights_of_the_codes(folded):
    sae, h = expander(), activations()
    if folded:
        sae.fold_W_dec_norm()
    codes = sae.encode(h)
    z = sae.process_sae_in(h) @ sae.W_enc + sae.b_enc
    torch.testing.assert_close(codes, torch.where(codes != 0, z, 0.0), rtol=1e-4, atol=1e-4)


def test_the_sae_that_it_is_made_of_stays_as_it_was():
    sae = trained(Expander(N, D, K))
    made = compact.ExpanderSAE.of(sae)
    made.fold_activation_norm_scaling_factor(2.0)
    assert float(sae.scale) == pytest.approx(SCALE) and all(p.requires_grad for p in sae.parameters())
    assert not any(p.requires_grad for p in made.parameters())


def test_copies_and_names():
    sae, h = expander("mp_refit"), activations()
    assert copy.deepcopy(sae)(h).equal(sae(h))
    sae.setup()  # gives every module of SAELens a name, and none of ours
    assert sae.ours.encoder.name == "mp_refit" and set(sae.mod_dict) == {
        "activation_fn",
        *(f"hook_sae_{point}" for point in ("input", "acts_pre", "acts_post", "output", "recons", "error")),
    }


def test_a_runs_file_says_where_it_is_hooked(tmp_path):
    about = {
        "labels": {"model": "lm", "corpus": "wiki"},
        "spec": {"activations": {"layer": 2, "window": 64, "bos": "window"}},
    }
    io.save(trained(Expander(N, D, K)), tmp_path, about)
    found = compact.load(tmp_path).cfg.metadata
    assert (found.model_name, found.hook_name, found.context_size) == ("lm", "blocks.2.hook_resid_post", 64)
    assert (found.dataset_path, found.prepend_bos) == ("wiki", True)
    assert compact.load(tmp_path, about=About(layer=5)).cfg.metadata.hook_name == "blocks.5.hook_resid_post"


def test_no_dense_atoms_are_made(tmp_path, monkeypatch):
    """Whatever reads, encodes and decodes: only W_dec and W_enc ask for dense atoms."""
    from sae_core.dictionary import Dictionary

    asked: list[int] = []
    dense = Dictionary.dense_atoms
    monkeypatch.setattr(Dictionary, "dense_atoms", lambda self, *rest: asked.append(1) or dense(self, *rest))
    io.save(trained(Expander(N, D, K, encoder="mp_refit")), tmp_path / "ours")
    sae = compact.load(tmp_path / "ours")
    sae.fold_W_dec_norm()
    sae(activations())
    sae.save_model(tmp_path / "theirs")
    sae_lens.SAE.load_from_disk(tmp_path / "theirs")(activations())
    assert not asked
    assert sae.W_dec.shape == (N, M) and asked == [1]


def test_neither_the_front_door_nor_the_export_imports_sae_lens():
    code = "import sys, sae_core.formats, sae_core.io; assert not any(m.startswith('sae_lens') for m in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


def test_pickles():
    assert pickle.loads(pickle.dumps(expander().cfg)).d_sae == N
