"""SAEs of other libraries read back: what we export, every rule by its formula, and files that are no SAE."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_core import io
from sae_core.arms import DenseRandInit, DenseTied, Expander, Imported
from sae_core.encoders import JumpReLU, joined
from sae_core.formats import FormatError, codes_of, describe, export, find, load
from sae_core.formats.blocks import blocks
from sae_core.inference import infer_by, multiply_adds, read_alike
from sae_core.prefixes import cut
from sae_core.storage import count_storage, planned_bytes, planned_counts
from tests.contracts.test_arms import D, K, M, N
from tests.sae_core.formats.cases import ABOUT, ARMS, activations, check_alike, identified, ours, trained

LIBRARIES = ("saelens", "sparsify", "dictionary_learning")


def weights(seed: int = 0, n: int = N) -> dict[str, torch.Tensor]:
    """Random weights of no symmetry: atoms of many lengths, biases and thresholds that are not 0."""
    g = torch.Generator().manual_seed(seed)
    encoder, decoder = torch.randn(n, M, generator=g) / 3, torch.randn(n, M, generator=g)
    decoder *= 0.5 + torch.rand(n, 1, generator=g)
    vectors = {name: torch.randn(n, generator=g) * 0.3 for name in ("b_enc", "b_gate", "b_mag", "r_mag")}
    threshold = torch.rand(n, generator=g) * 2
    return {
        "encoder": encoder,
        "decoder": decoder,
        "b_dec": torch.randn(M, generator=g),
        "threshold": threshold,
        **vectors,
    }


def saelens(folder: Path, rule: str, **config) -> Path:
    """Write what SAELens saves of an SAE of `weights` into a folder."""
    w = weights()
    tensors = {"W_enc": w["encoder"].T.contiguous(), "W_dec": w["decoder"], "b_dec": w["b_dec"]}
    own = {"gated": ("b_gate", "b_mag", "r_mag"), "jumprelu": ("b_enc", "threshold")}
    tensors |= {name: w[name] for name in own.get(rule, ("b_enc",))}
    if rule == "matching_pursuit":  # atoms near norm 1, of longer ones more is taken away than there is
        tensors = {"W_dec": w["decoder"] / w["decoder"].norm(dim=1).mean(), "b_dec": w["b_dec"]}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "sae_weights.safetensors")
    metadata = {"sae_lens_version": "6.54.12", "model_name": "m", "hook_name": "blocks.3.hook_resid_post"}
    plain = {"architecture": rule, "d_in": M, "d_sae": N, "dtype": "float32", "metadata": metadata}
    (folder / "cfg.json").write_text(json.dumps({**plain, **({"k": K} if rule == "topk" else {}), **config}))
    return folder


def expected(architecture: str, h: torch.Tensor, subtracts: bool = True, rescales: bool = False) -> torch.Tensor:
    """The reconstruction that SAELens' code gives, in a few lines."""
    w = weights()
    u = (h - w["b_dec"] * subtracts) @ w["encoder"].T
    norms = w["decoder"].norm(dim=1)
    if architecture == "gated":
        codes = (u + w["b_gate"] > 0) * (u * w["r_mag"].exp() + w["b_mag"]).relu()
    elif architecture == "topk":
        z = (u + w["b_enc"]) * (norms if rescales else 1)
        largest = z.topk(K, dim=1)
        codes = torch.zeros_like(z).scatter(1, largest.indices, largest.values.relu()) / (norms if rescales else 1)
    else:
        z = u + w["b_enc"]
        codes = z.relu() * (z > w["threshold"]) if architecture == "jumprelu" else z.relu()
    return codes @ w["decoder"] + w["b_dec"]


@pytest.mark.parametrize("subtracts", [True, False])
@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "topk", "gated"])
def test_every_rule_reads_as_its_formula(architecture, subtracts, tmp_path):
    sae, h = load(saelens(tmp_path, architecture, apply_b_dec_to_input=subtracts)), activations()
    with torch.no_grad():
        found, wanted = sae(h).reconstruction, expected(architecture, h, subtracts)
    assert float((found - wanted).norm() / wanted.norm()) < 1e-5
    assert not sae.training and isinstance(sae.encoder, JumpReLU) == (architecture != "topk")


PURSUITS = {  # the settings of a matching pursuit of SAELens, and those that are not said
    "as saved": {},
    "k picks": {"max_iterations": K, "residual_threshold": 0.0, "stop_on_duplicate_support": False},
    "until little is left": {"residual_threshold": 3.0, "stop_on_duplicate_support": False},
    "a bias that is not subtracted": {"max_iterations": 2 * K, "apply_b_dec_to_input": False},
}


def pursued(h: torch.Tensor, max_iterations=M, residual_threshold=1e-2, stop_on_duplicate_support=True, **bias):
    """Codes by matching pursuit as SAELens defines it, token by token."""
    w = weights()
    atoms, b_dec = (
        w["decoder"] / w["decoder"].norm(dim=1).mean(),
        w["b_dec"] * bool(bias.get("apply_b_dec_to_input", 1)),
    )
    codes = torch.zeros(len(h), N)
    for row, left in zip(codes, h - b_dec, strict=True):
        for _ in range(max_iterations):
            before, products = row != 0, (atoms @ left).relu()
            best = int(products.argmax())
            row[best] += products[best]
            left = left - products[best] * atoms[best]
            if (stop_on_duplicate_support and torch.equal(before, row != 0)) or left.norm() < residual_threshold:
                break
    return codes, codes @ atoms + b_dec


@pytest.mark.parametrize("name", PURSUITS)
@torch.no_grad()
def test_matching_pursuit_picks_as_it_is_defined(name, tmp_path):
    folder, h = saelens(tmp_path / "theirs", "matching_pursuit", **PURSUITS[name]), activations()
    codes, wanted = pursued(h, **PURSUITS[name])
    sae = load(folder, k=K)
    alike = torch.isclose(sae(h).reconstruction, wanted, rtol=1e-4, atol=1e-4).all(1)
    assert alike.float().mean() > 0.95  # another pick of two that are equally good in float32 may follow
    found = ours(sae, h).codes / sae.encoder.gain
    torch.testing.assert_close(found[alike], codes[alike], rtol=1e-3, atol=1e-4)
    io.save(sae, tmp_path / "ours")
    again = io.load(tmp_path / "ours")
    assert json.loads((tmp_path / "ours/cfg.json").read_text())["format"] == 10
    assert torch.equal(again(h).reconstruction, sae(h).reconstruction)
    arm = Imported(K, str(folder))
    assert planned_counts(arm.layout(M)) == count_storage(sae) == count_storage(again)
    export(again, "saelens", tmp_path / "back")
    assert torch.equal(load(tmp_path / "back")(h).indices, sae(h).indices)
    for reading in ("topk", "mp", "mp_refit"):
        assert torch.isfinite(infer_by(sae, reading)(h).reconstruction).all()
    assert not read_alike(sae, "encoder", "mp") and multiply_adds(sae) == sae.encoder.most * N * M
    whole = codes_of(blocks(arm.source, arm.header, K, block_bytes=8 * M * 10), arm.header, h)
    assert whole.nnz == int((found != 0).sum())


def test_the_end_of_a_pursuit_must_be_one(tmp_path):
    for settings in ({"residual_threshold": -1.0}, {"residual_threshold": "x"}, {"stop_on_duplicate_support": 1}):
        with pytest.raises(FormatError, match="end no pursuit"):
            load(saelens(tmp_path, "matching_pursuit", **settings))
    with pytest.raises(FormatError, match="max_iterations=0 must be a whole number"):
        load(saelens(tmp_path, "matching_pursuit", max_iterations=0))
    io.save(load(saelens(tmp_path / "theirs", "matching_pursuit")), tmp_path / "ours")
    config = json.loads((tmp_path / "ours/cfg.json").read_text())
    ends = {"most": 3, "stop": 0.0, "distinct": True}
    for change in (
        {"ends": None},
        {"ends": ends | {"most": 0}},
        {"ends": ends | {"stop": -1}},
        {"ends": ends | {"more": 1}},
        {"format": 8},
        {"rule": "threshold"},
        {"pursuit": "omp"},
    ):
        (tmp_path / "ours/cfg.json").write_text(json.dumps(config | change))
        with pytest.raises(io.SAEFileError, match="ours"):
            io.load(tmp_path / "ours")


def test_atoms_of_many_lengths_choose_by_their_own_rule(tmp_path):
    h = activations()
    for rescales in (False, True):
        folder = saelens(tmp_path / str(rescales), "topk", rescale_acts_by_decoder_norm=rescales)
        wanted = expected("topk", h, rescales=rescales)
        torch.testing.assert_close(load(folder)(h).reconstruction, wanted, rtol=1e-4, atol=1e-4)
    assert (expected("topk", h) - expected("topk", h, rescales=True)).abs().max() > 1


def test_normalised_activations_need_their_mean_norm(tmp_path):
    folder, h = saelens(tmp_path, "standard", normalize_activations="expected_average_only_in"), activations()
    with pytest.raises(FormatError, match="mean_norm"):
        load(folder)
    mean_norm = float(h.norm(dim=1).mean())
    factor = M**0.5 / mean_norm
    found = load(folder, mean_norm=mean_norm)(h).reconstruction
    torch.testing.assert_close(found, expected("standard", h * factor) / factor, rtol=1e-4, atol=1e-4)
    sae = Imported(4, str(folder)).build(M, 0, scale=factor)
    torch.testing.assert_close(sae(h).reconstruction, found)
    assert float(Imported(4, str(saelens(tmp_path / "plain", "standard"))).build(M, 0, scale=factor).scale) == 1


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("arm", [Expander(N, D, K), DenseTied(N, K), DenseRandInit(N, K)], ids=lambda arm: arm.label)
def test_what_is_exported_is_read_back(library, arm, tmp_path):
    sae, h = trained(arm), activations()
    folder = tmp_path / "layers.3"
    export(sae, library, folder, ABOUT)
    loaded = load(folder)
    assert find(folder).format == library and loaded.k == K
    torch.testing.assert_close(loaded(h).reconstruction, sae(h).reconstruction, rtol=1e-4, atol=1e-4)
    about = describe(find(folder)).about
    assert (about.model, about.layer, about.context, about.dataset) == ("gpt-nonesuch", 3, 128, "some/text")


@pytest.mark.parametrize("library", ["saelens", "dictionary_learning"])
@pytest.mark.parametrize("architecture", ["batch_topk", "jumprelu", "gated", "standard"])
def test_thresholds_survive_export_and_import(library, architecture, tmp_path):
    one_for_all = architecture == "batch_topk"
    sae = trained(DenseTied(N, K, "batch_topk")) if one_for_all else load(saelens(tmp_path / "first", architecture))
    export(sae, library, tmp_path / "second", ABOUT)
    h = activations()
    with torch.no_grad():
        found, wanted = load(tmp_path / "second")(h).reconstruction, sae(h).reconstruction
    few = (ours(sae, h).codes != 0).sum(1) < 4 * K if one_for_all else torch.ones(len(h), dtype=torch.bool)
    assert float((found - wanted)[few].norm() / wanted.norm()) < 1e-5 and float(few.float().mean()) > 0.9


def test_an_imported_sae_is_saved_read_in_other_ways_and_cut(tmp_path):
    h = activations()
    for architecture in ("jumprelu", "topk"):
        sae = load(saelens(tmp_path / architecture, architecture), k=K)
        io.save(sae, tmp_path / f"{architecture}-ours")
        again = io.load(tmp_path / f"{architecture}-ours")
        assert torch.equal(again(h).reconstruction, sae(h).reconstruction)
        for reading in ("topk", "refit", "mp_refit"):
            left = h - infer_by(sae, reading)(h).reconstruction
            assert torch.isfinite(left).all()
        part = cut(sae, N // 2)
        assert part(h).indices.max() < N // 2
        whole = ours(sae, h).codes[:, : N // 2]
        if architecture == "jumprelu":
            check_alike(ours(part, h)[:1], (whole,), torch.ones(len(h), dtype=torch.bool))
        arm = Imported(K, str(tmp_path / architecture))
        assert planned_counts(arm.layout(M)) == count_storage(sae)
        assert arm.layout(M).file_bytes == (tmp_path / architecture / "sae_weights.safetensors").stat().st_size


def test_as_many_latents_fire_as_are_above_their_thresholds(tmp_path):
    sae, h = load(saelens(tmp_path, "jumprelu"), k=2), activations()
    w = weights()
    fires = ((h - w["b_dec"]) @ w["encoder"].T + w["b_enc"]) > w["threshold"]
    codes, indices = sae.encode(h)
    assert (
        codes.shape == indices.shape
        and codes.shape[1] == int(fires.sum(1).max())
        and len(set(fires.sum(1).tolist())) > 2
    )
    assert torch.equal((ours(sae, h).codes != 0).sum(1), fires.sum(1))
    parts = [sae.encode(part) for part in h.split(7)]
    assert len({part[0].shape[1] for part in parts}) > 1
    together = joined(parts)
    torch.testing.assert_close(together[0][:, : codes.shape[1]].sort(1).values, codes.sort(1).values)
    h[0] = torch.nan
    assert torch.isnan(sae(h).reconstruction[0]).any()  # a broken input shows


def test_half_precision_is_read_and_counted_as_it_lies_on_disk(tmp_path):
    folder = saelens(tmp_path, "standard", dtype="bfloat16")
    file = folder / "sae_weights.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(file).items()}, file)
    layout = Imported(K, str(folder)).layout(M)
    assert (layout.value_bits, layout.file_bytes) == (16, file.stat().st_size)
    assert load(folder)(activations()).reconstruction.dtype == torch.float32


def test_configs_of_sae_lens_before_version_6_are_read(tmp_path):
    folder = saelens(tmp_path, "standard")
    old = {"d_in": M, "d_sae": N, "dtype": "float32", "model_name": "m", "hook_point": "blocks.4.hook_resid_pre"}
    kwargs = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}, "normalize_activations": False}
    (folder / "cfg.json").write_text(json.dumps({**old, **kwargs}))
    header = describe(find(folder))
    assert (header.k, header.normalised, header.about.layer, header.about.model) == (K, False, 3, "m")
    h = activations()
    torch.testing.assert_close(load(folder)(h).reconstruction, expected("topk", h), rtol=1e-4, atol=1e-4)


def test_an_sae_is_named_by_what_it_holds(tmp_path):
    first, second = (Imported(4, str(saelens(tmp_path / name, "standard"))) for name in ("a", "b"))
    assert first.content == second.content and len(first.content) == 32
    other = saelens(tmp_path / "c", "standard", apply_b_dec_to_input=False)
    assert Imported(4, str(other)).content != first.content
    by_file = Imported(4, str(tmp_path / "a/sae_weights.safetensors"))
    assert by_file.content == first.content and by_file.sizes(M) == (N, M, 4)
    with pytest.raises(ValueError, match="holds another SAE than"):
        Imported(4, str(other), content=first.content)


class Runs:
    """A pickle that runs code when it is read."""

    def __reduce__(self):
        return (exec, ("import pathlib; pathlib.Path('it-ran').touch()",))


def damaged(folder: Path, config: dict | None = None, drop: str = "", put: dict | None = None) -> Path:
    folder = saelens(folder, "jumprelu", **(config or {}))
    file = folder / "sae_weights.safetensors"
    tensors = {name: tensor for name, tensor in load_file(file).items() if name != drop}
    save_file({**tensors, **(put or {})}, file)
    return folder


BROKEN = {
    "a key is missing": (lambda f: damaged(f, drop="threshold"), "holds no threshold"),
    "a wrong shape": (
        lambda f: damaged(f, put={"b_dec": torch.zeros(M + 1)}),
        r"b_dec of shape \(25,\) must be \(24,\)",
    ),
    "NaN": (lambda f: damaged(f, put={"b_dec": torch.full((M,), torch.nan)}), "b_dec has values that are not finite"),
    "an atom of no length": (lambda f: damaged(f, put={"W_dec": torch.zeros(N, M)}), "W_dec of latent 0 is 0"),
    "an unknown architecture": (lambda f: damaged(f, {"architecture": "temporal"}), "architecture=temporal is none of"),
    "no size": (lambda f: damaged(f, {"d_in": "many"}), "d_in=many must be a whole number"),
    "another place": (
        lambda f: damaged(f, {"metadata": {"sae_lens_version": "6.0", "hook_name": "blocks.3.hook_mlp_out"}}),
        "hook_mlp_out is not the residual stream",
    ),
    "normalised by token": (
        lambda f: damaged(f, {"normalize_activations": "layer_norm"}),
        "normalize_activations=layer_norm cannot be read here",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_read_is_one_line(name, tmp_path):
    make, said = BROKEN[name]
    folder = make(tmp_path)
    with pytest.raises(FormatError, match=said) as caught:
        load(folder)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value) + str(tmp_path) * (
        name[0:7] == "an atom"
    )


def test_damaged_files_are_one_line(tmp_path):
    for content, said in (
        ((10 * 2**30).to_bytes(8, "little") + b"{}", "no readable safetensors file"),  # a header of 10 GB
        (b"", "no readable safetensors file"),
        (b"\x08" * 100, "no readable safetensors file"),
    ):
        folder = saelens(tmp_path, "standard")
        (folder / "sae_weights.safetensors").write_bytes(content)
        with pytest.raises(FormatError, match=said):
            load(folder)
    for config, said in (
        ("{", "not readable JSON"),
        ("[1]", "not a JSON object"),
        ("[" * 100_000, "not readable JSON"),
    ):
        (folder / "cfg.json").write_text(config)
        with pytest.raises(FormatError, match=said):
            load(folder)
    for path, given, said in (
        (tmp_path / "none", None, "none is not there"),
        (tmp_path, "lens", "format=lens must be"),
        (tmp_path, "dictionary_learning", "config.json is missing"),
    ):
        with pytest.raises(FormatError, match=said):
            load(path, given)


def test_a_pickle_runs_nothing_unless_it_is_allowed_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export(trained(DenseTied(N, K)), "dictionary_learning", tmp_path, ABOUT)
    load(tmp_path)  # tensors alone need no leave
    tensors = torch.load("ae.pt")
    torch.save({**tensors, "more": Runs()}, "ae.pt")
    with pytest.raises(FormatError, match="could run code: sae.allow_pickle=true reads it"):
        load(tmp_path)
    Path("ae.pt").write_bytes(pickle.dumps(Runs()))
    with pytest.raises(FormatError):
        load(tmp_path)
    assert not Path("it-ran").exists()
    torch.save({**tensors, "more": Runs()}, "ae.pt")
    with pytest.raises(FormatError, match="no state dict of tensors"):
        load(tmp_path, allow_pickle=True)
    assert Path("it-ran").exists()


@pytest.mark.parametrize("arm", ARMS, ids=identified)
def test_an_sae_of_ours_is_read_as_it_is_and_counted_as_its_file_says(arm, tmp_path):
    sae, h = trained(arm), activations()
    size = io.save(sae, tmp_path, {"labels": {"model": "m"}, "spec": {"activations": {"layer": 2}}})
    found = Imported(K, str(tmp_path))
    assert torch.equal(found.build(M, 0, scale=3.0)(h).reconstruction, io.load(tmp_path)(h).reconstruction)
    layout = found.layout(M)
    assert planned_counts(layout) == count_storage(io.load(tmp_path)) and planned_bytes(layout) == size
    assert planned_bytes(layout._replace(file_bytes=0)) == size
    assert (found.k, found.about.model, found.about.layer) == (sae.k, "m", 2)


def test_an_sae_of_ours_must_lie_beside_its_config_under_its_own_name(tmp_path):
    io.save(trained(DenseTied(N, K)), tmp_path)
    (tmp_path / "sae.safetensors").rename(tmp_path / "other.safetensors")
    with pytest.raises(FormatError, match="must be called sae.safetensors, and lie beside"):
        load(tmp_path / "other.safetensors")


def test_an_sae_of_ours_that_is_damaged_is_refused_before_it_is_read(tmp_path):
    io.save(trained(DenseTied(N, K)), tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps({**config, "d_in": M + 1}))
    with pytest.raises(io.SAEFileError, match="asks for b_dec of shape"):
        Imported(K, str(tmp_path))


def test_sizes_that_do_not_fit_are_named(tmp_path):
    arm = Imported(4, str(saelens(tmp_path, "standard")))
    with pytest.raises(ValueError, match=f"has d_in={M}, and the LM's activations 25"):
        arm.sizes(25)
    with pytest.raises(ValueError, match=f"k=97 must be in 1..{N}"):
        Imported(97, str(tmp_path)).sizes(M)
    with pytest.raises(ValueError, match=r"sae\.path must name"):
        Imported(4)
