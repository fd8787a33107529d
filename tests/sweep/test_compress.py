"""`python -m sweep.compress`: another library's SAE, and a run's, become smaller ones that every command reads."""

from __future__ import annotations

import csv
import itertools
import json
import operator

import pytest
import torch

from sae_core import io
from sae_core.arms import DenseRandInit, DenseTied, Imported
from sae_core.encoders import JumpReLU
from sae_core.formats import About, codes_of, export, load
from sae_core.formats.blocks import blocks
from sae_core.storage import planned_bytes
from sweep.compress import _without, main
from sweep.jobs.build import build_job
from sweep.shrink.cells import READINGS, fitting
from sweep.shrink.chosen import best_of
from sweep.store.records import iterate_records
from tests.sweep.test_inference import SMALL, call
from tests.sweep.world import composed

D_IN, N = 32, 96


@pytest.fixture(scope="module")
def place(tmp_path_factory, model_folders, text_file):
    """The settings of a small LM, the folder of an SAE of that LM, and what making it smaller said."""
    folder = tmp_path_factory.mktemp("compressed")
    model = model_folders["gpt_neox"]
    sae = DenseRandInit(N, 5, "batch_topk").build(D_IN, seed=1, scale=0.8)
    sae.residual(torch.randn(500, D_IN, generator=torch.Generator().manual_seed(0)))
    export(sae, "saelens", folder / "sae", About(model.name, 1, 24, "text"))
    settings = [word for word in SMALL if word.split("=")[0] not in ("d", "n", "k", "layer")]
    settings += [f"model.path={model}", f"corpus.path={text_file}", f"cache_dir={folder / 'cache'}"]
    settings += [f"runs_dir={folder / 'runs'}", "launch.workers=1"]
    words = [f"sae={folder / 'sae'}", "ratio=12", "trials=5", f"out={folder / 'small'}", "sae.format=saelens"]
    return folder, settings, words, call("sweep.compress", *words, *settings).stdout


def test_the_chosen_one_fits_and_is_compared_with_what_it_was_made_of(place):
    folder, _, _, said = place
    size = (folder / "small" / "sae.safetensors").stat().st_size
    assert size <= (folder / "sae" / "sae_weights.safetensors").stat().st_size / 12
    assert "chosen: compressed" in said and "CE recovered, against zero ablation" in said and "of it" in said
    records = [record for _, record in iterate_records(folder / "runs")]
    smaller = [record for record in records if record["labels"]["arm"].startswith("compressed")]
    assert [record["labels"]["arm"] for record in records].count("imported") == 1 and 3 <= len(smaller) <= 5
    most = max(record["survival"]["survived"] for record in smaller)
    chosen = next(record for record in smaller if record["run_id"] in said)
    assert set(chosen["survival"]) == {"correlation", "below_90", "silenced", "dead", "removed", "survived"}
    assert chosen["survival"]["survived"] == most and chosen["storage"]["artifact_bytes"] == size
    assert (folder / "small" / "compressed.png").exists()


def test_the_table_says_which_latent_is_which_and_how_well_it_survived(place):
    folder, settings, _, _ = place
    with open(folder / "small" / "latents.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    small = io.load(folder / "small")
    assert len(rows) == small.n_latents and [int(row["latent"]) for row in rows] == list(range(len(rows)))
    numbers = [int(row["original"]) for row in rows]
    assert numbers == sorted(set(numbers)) and max(numbers) < N
    atoms = load(folder / "sae").dictionary.dense_atoms()[numbers]
    alike = (atoms * small.dictionary.dense_atoms()).sum(1).detach()
    assert float(alike.median()) > 0.5  # they are the same atoms, with fewer values and bits
    measured = [float(row["correlation"]) for row in rows if row["correlation"]]
    assert measured and all(-1 <= value <= 1 for value in measured)


def test_it_goes_on_where_it_was_and_takes_the_place_of_what_it_chose_before_alone(place):
    folder, settings, words, _ = place
    other = [f"out={folder / 'sae'}" if word.startswith("out=") else word for word in words]
    (folder / "sae" / "sae.safetensors").write_bytes(b"somebody's")
    said = call("sweep.compress", *other, *settings, code=1).stderr
    (folder / "sae" / "sae.safetensors").unlink()
    assert "holds an SAE already, which is not overwritten" in said and len(said.splitlines()) == 1
    before = len(list(iterate_records(folder / "runs")))
    chosen = (folder / "small" / "sae.safetensors").read_bytes()
    done = call("sweep.compress", *words, *settings)
    assert "5 of 5 trials complete" in done.stdout and len(list(iterate_records(folder / "runs"))) == before
    assert (folder / "small" / "sae.safetensors").read_bytes() == chosen
    more = ["trials=6" if word.startswith("trials=") else word for word in words]
    assert "6 of 6 trials complete" in call("sweep.compress", *more, *settings).stdout


def test_what_was_made_smaller_is_read_again_and_exported(place, tmp_path):
    folder, settings, _, _ = place
    given = ["sae=imported", f"sae.path={folder / 'small'}", "layer=1", *settings]
    assert "CE recovered" in call("sweep", *given, "eval.inference=[encoder,topk]").stderr
    small = io.load(folder / "small")
    if small.encoder.__class__.__name__ == "TiedTopK":
        export(small, "sparsify", tmp_path / "out")
        h = torch.randn(50, D_IN, generator=torch.Generator().manual_seed(3))
        other = load(tmp_path / "out")(h).reconstruction
        assert float((other - small(h).reconstruction).abs().max()) < 1e-3


def test_the_cells_fit_the_budget_and_keep_as_many_values_as_they_can(place):
    folder, settings, _, _ = place
    job = build_job(composed("sae=imported", f"sae.path={folder / 'sae'}", "layer=1", *settings[:-1]), "test")
    arm = job.spec.arm
    for budget in (4000, 1500):
        found = fitting(arm, N, 4, budget)
        first = [words for words in found.first if "sae.of.encoder=own" not in words]
        assert found.readings == (("own", *READINGS) if len(first) < len(found.first) else READINGS)
        kept = [words for words in first if "support=largest" in words]
        cells = [dict(word.split("=") for word in words.split()) for words in kept]
        for reading in READINGS:  # none keeps less of everything than another one, so that all trials tell something
            of = [cell for cell in cells if reading in cell.values()]
            sizes = [(int(cell["n"]), int(cell["d"]), float(cell["sae.bits"])) for cell in of]
            assert sizes == [(N, D_IN, 8)] if budget == 4000 else len(sizes) > 2
            assert all(size[1] == D_IN or size[2] in (8, 4, 3, 2, 1.58) for size in sizes)
            assert not any(a != b and all(map(operator.ge, a, b)) for a, b in itertools.permutations(sizes, 2))
        drawn = [dict(word.split("=") for word in words.split()) for words in first if words not in kept]
        assert all(int(cell["d"]) < D_IN and cell["sae.of.encoder"] == "mp_refit" for cell in drawn)
    assert drawn  # where all values do not fit
    cells = fitting(arm, N, 4, 4000)
    for words in cells.first:
        cell = dict(word.split("=") for word in words.split())
        smaller = composed(
            "sae=compressed", f"sae.of.of.path={folder / 'sae'}", "layer=1", "k=4", *settings[:-1], *words.split()
        )
        built = build_job(smaller, "test")
        size = planned_bytes(built.spec.arm.layout(D_IN))
        assert size <= 4000 and int(cell["n"]) >= 0.9 * N
    assert any("d=32" in words for words in cells.first) and cells.bases == ("neurons",) and N in cells.latents
    with pytest.raises(ValueError, match="is too little for 96 latents: the smallest SAE that is tried takes"):
        fitting(arm, N, 4, 100)


def test_an_encoder_of_its_own_is_kept_at_the_bits_that_fit_and_none_is_looked_for_where_there_is_none(place, tmp_path):
    folder, settings, _, _ = place
    arm = Imported(5, str(folder / "sae"))
    full = arm.header.file_bytes
    found = [fitting(arm, N, 5, full // ratio).first for ratio in (3, 7, 40)]
    own = [[words for words in first if "sae.of.encoder=own" in words] for first in found]
    assert all(list(first[: len(kept)]) == kept for first, kept in zip(found, own, strict=True))  # they come first
    assert "sae.bits=8 sae.encoder_bits=8" in own[0][0] and len(own[0]) == 1 and not own[2]
    pairs = [tuple(float(word.split("=")[1]) for word in words.split()[2:4]) for words in own[1]]
    assert (
        pairs
        and all(4 <= sum(pair) <= 8.01 and pair[0] <= pair[1] for pair in pairs)
        and pairs == sorted(pairs, key=sum, reverse=True)
    )
    io.save(DenseTied(N, 5).build(D_IN, seed=0), tmp_path)
    assert "own" not in fitting(Imported(5, str(tmp_path)), N, 5, full // 7).readings


def test_an_sae_keeps_its_own_encoder_and_most_of_its_latents_and_goes_back_to_its_library(place, tmp_path):
    folder, settings, _, _ = place
    words = [f"sae={folder / 'sae'}", "ratio=4", "trials=4", f"out={tmp_path / 'small'}", "sae.of.encoder=own"]
    said = call("sweep.compress", *words, *settings).stdout
    small = io.load(tmp_path / "small")
    assert isinstance(small.encoder, JumpReLU) and "compressed+own-" in said
    chosen = said.partition("chosen: ")[2]
    record = next(record for _, record in iterate_records(folder / "runs") if record["run_id"] in chosen)
    assert record["storage"]["encoder_bits"] == 6 and record["survival"]["survived"] > 0.8
    export(small, "saelens", tmp_path / "out")
    h = torch.randn(50, D_IN, generator=torch.Generator().manual_seed(3))
    other = load(tmp_path / "out")(h).reconstruction.detach()
    assert float((other - small(h).reconstruction.detach()).abs().max()) < 1e-3


@pytest.mark.parametrize(
    "least, before, chosen, said",
    [
        (0.6, 0.97, "faithful", ""),
        (0.0, 0.97, "pursuit", ""),
        (0.9, 0.97, "faithful", "keeps 90% of the latents; the chosen one keeps the most of those that recover 98%"),
        (0.9, 1.5, "alike", "keeps 90% of the latents; the chosen one keeps the most\n"),
        (0.9, None, "alike", "keeps 90% of the latents; the chosen one keeps the most\n"),
    ],
)
def test_where_too_few_latents_survive_most_of_the_cross_entropy_comes_first(
    least, before, chosen, said, tmp_path, capsys, monkeypatch
):
    found = {"pursuit": (0.98, 0.1), "faithful": (0.96, 0.6), "alike": (0.8, 0.7)}
    records = {
        name: {"metrics": {"ce_recovered": ce}, "survival": {"survived": kept}, "storage": {"artifact_bytes": 1}}
        for name, (ce, kept) in found.items()
    }
    (tmp_path / "trials.csv").write_text("run_id,state\n" + "".join(f"{name},complete\n" for name in found))
    monkeypatch.setattr("sweep.shrink.chosen.read_record", lambda runs_dir, name: records[name])
    original = None if before is None else {"metrics": {"ce_recovered": before}}
    assert best_of(tmp_path, tmp_path, least, original) is records[chosen]
    assert said in capsys.readouterr().out


def test_codes_of_a_folder_are_those_of_the_loaded_sae(place):
    folder, _, _, _ = place
    arm, sae = Imported(5, str(folder / "sae")), load(folder / "sae")
    h = torch.randn(40, D_IN, generator=torch.Generator().manual_seed(1))
    codes, indices = sae.encode(h)
    found = codes_of(blocks(arm.source, arm.header, 5, block_bytes=8 * D_IN * 10), arm.header, h)
    assert found.nnz == int((codes != 0).sum())


@pytest.mark.parametrize(
    "words, said",
    [
        (["ratio=8"], "give sae= or run=, one of both"),
        (["sae=x", "run=ab", "ratio=8"], "give sae= or run=, one of both"),
        (["sae=x"], "give ratio= or bytes=, one of both"),
        (["sae=x", "ratio=8", "bytes=9"], "give ratio= or bytes=, one of both"),
        (["sae=x", "sae=y", "ratio=8"], "sae= is given twice"),
        (["sae=x", "ratio=8", "d=7"], "d is what the search decides; bytes= or ratio= limits it"),
        (["sae=x", "ratio=8", "trials=0"], "trials=0 must be a whole number of at least 1"),
        (["sae=x", "bytes=1e5"], "bytes=1e5 must be a whole number of at least 1"),
        (["sae=x", "ratio=8", "survived=2"], "survived=2 must be a number in 0..1"),
        (["sae=x", "ratio=8", "out"], "out is not KEY=VALUE"),
        (["sae=nowhere", "ratio=8"], "nowhere is not there"),
        (["run=0123456789abcdef", "ratio=8"], "no finished run of that id"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_done(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(words)
    error = capsys.readouterr().err
    assert end.value.code == 1 and said in error and len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_reading_that_is_given_is_the_only_one_that_is_tried(place):
    folder, settings, words, _ = place
    given = [f"out={folder / 'one-shot'}" if word.startswith("out=") else word for word in words]
    before = set((folder / "runs" / "studies").iterdir())
    call("sweep.compress", *given, "sae.of.encoder=mp_refit", *settings)
    (study,) = [path for path in set((folder / "runs" / "studies").iterdir()) - before if path.is_dir()]
    assert io.load(folder / "one-shot").encoder.name == "mp_refit"
    with open(study / "trials.csv", newline="") as stream:
        assert all("sae.of.encoder" not in row for row in csv.DictReader(stream))


def test_a_setting_that_is_given_is_not_searched():
    first = ["n=9 d=7 sae.of.encoder=topk", "n=9 d=7 sae.of.encoder=mp_refit", "n=9 d=3 sae.of.encoder=topk"]
    assert _without(first, {"sae.of.encoder": "topk", "k": "4"}) == ["n=9 d=7", "n=9 d=3"]
    assert _without(first, {}) == first
    own = "n=9 d=24 sae.encoder_bits=4 sae.of.encoder=own"
    assert _without([own, *first], {"sae.of.encoder": "omp"}) == ["n=9 d=7", "n=9 d=3"]
    assert _without([own, *first], {"sae.of.encoder": "own"}) == ["n=9 d=24 sae.encoder_bits=4"]


def test_an_encoder_that_an_sae_has_not_cannot_be_kept(place, tmp_path, capsys):
    folder, settings, _, _ = place
    io.save(DenseTied(N, 5).build(D_IN, seed=0), tmp_path / "tied")
    with pytest.raises(SystemExit):
        main([f"sae={tmp_path / 'tied'}", "ratio=4", "layer=1", "sae.of.encoder=own", *settings])
    assert "sae.of.encoder=own cannot be kept: the SAE has no encoder" in capsys.readouterr().err


def test_an_sae_of_another_lm_than_the_default_one_needs_to_be_told_which(place, capsys):
    folder, settings, _, _ = place
    with pytest.raises(SystemExit):
        main([f"sae={folder / 'sae'}", "ratio=8"])
    error = capsys.readouterr().err
    assert "the SAE is of the LM" in error and "as in model=" in error and len(error.splitlines()) == 1


def test_a_ratio_must_make_it_smaller(place, capsys):
    folder, settings, _, _ = place
    for ratio in ("1", "x", "nan"):
        with pytest.raises(SystemExit):
            main([f"sae={folder / 'sae'}", f"ratio={ratio}", *settings])
        assert f"ratio={ratio} must be a number above 1" in capsys.readouterr().err


def test_the_settings_of_another_layer_or_lm_are_refused(place, capsys):
    folder, settings, _, _ = place
    with pytest.raises(SystemExit):
        main([f"sae={folder / 'sae'}", "ratio=8", "layer=0", *settings])
    assert "layer=0 must be 1" in capsys.readouterr().err
    config = json.loads((folder / "sae" / "cfg.json").read_text())
    other = folder / "other"
    other.mkdir()
    (other / "sae_weights.safetensors").write_bytes((folder / "sae" / "sae_weights.safetensors").read_bytes())
    config["metadata"]["model_name"] = "gpt2"
    (other / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(SystemExit):
        main([f"sae={other}", "ratio=8", *settings])
    assert "is of the LM gpt2" in capsys.readouterr().err
