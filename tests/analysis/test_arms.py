from __future__ import annotations

import pytest

from analysis.arms import LOW_RANK, RIVALS, Arm, colour, described, display, has_degree, in_order, parse, unrounded
from analysis.read.load import read_records
from sae_core.arms import ITDA, TOPK, DenseLowRank, Dynamic, Kron, Prefix
from sae_core.arms.dense_own import DenseWarmTied
from sae_core.arms.dense_tied import DenseTied
from sae_core.arms.expander import Expander
from sae_core.arms.few_bits import FewBits
from sae_core.arms.product_quantised import ProductQuantised
from sae_core.arms.quantised import Quantised
from sae_core.arms.trellis_coded import TrellisCoded
from sae_core.hashed import hashed_fields
from sweep.store.records import RECOVERY


def test_label_and_spec_of_every_shipped_record_have_the_same_parts():
    seen = set()
    for record in read_records("embedded"):
        if record.get("kind") != RECOVERY:
            label, arm = record["labels"]["arm"], described(record["spec"]["sae"])
            assert parse(label) == arm and arm.label == label
            seen.add(arm)
    assert any(arm.pursuit for arm in seen) and {arm.bits for arm in seen} == {None, 8, 4, 2, 1.58, 1}


@pytest.mark.parametrize("encoder", [TOPK, "mp_refit"])
def test_the_label_that_an_arm_gives_itself_has_its_parts(encoder):
    pursuit = None if encoder == TOPK else encoder
    arm = Expander(n_latents=8, degree=2, k=2, encoder=encoder)
    assert parse(arm.label) == Arm("expander", pursuit, None)
    assert parse(Quantised(arm, 4).label) == Arm("expander", pursuit, 4)
    for bits in (2, 1.58):
        assert parse(Quantised(arm, bits).label) == Arm("expander", pursuit, bits)
        trained = FewBits(arm, bits)
        assert parse(trained.label) == Arm("expander", pursuit, bits, how="trained")
        spec = {"arm": trained.name, "bits": bits, "rounded_from": 0.5, "of": {"arm": "expander", "encoder": encoder}}
        assert described(spec) == parse(trained.label) and parse(trained.label).label == trained.label
        assert unrounded(trained.label) == arm.label
    pieces = ProductQuantised(DenseTied(8, 2, encoder), 2)
    assert parse(pieces.label) == Arm("dense_tied", pursuit, 2, how="pq") and unrounded(pieces.label) == pieces.of.label
    spec = {"arm": pieces.name, "bits": 2, "of": {"arm": "dense_tied", "encoder": encoder}}
    assert described(spec) == parse(pieces.label) and display(pieces.label).endswith("2 bits, product-quantised")
    pieces = ProductQuantised(DenseTied(8, 2, encoder), 2, rounded_in="fourier", pieces="weighted")
    assert parse(pieces.label).how == "pq_weighted_fourier" and parse(pieces.label).label == pieces.label
    assert display(pieces.label).endswith("2 bits, product-quantised for activations in a Fourier basis")
    paths = TrellisCoded(DenseTied(8, 2, encoder), 2)
    assert parse(paths.label).how == "tcq_fourier" and unrounded(paths.label) == paths.of.label
    assert display(paths.label).endswith("2 bits, trellis-coded in a Fourier basis")
    paths = TrellisCoded(DenseTied(8, 2, encoder), 1, rounded_in="neurons", path="weighted")
    assert parse(paths.label).label == paths.label and display(paths.label).endswith(
        "1 bit, trellis-coded for activations"
    )


@pytest.mark.parametrize(
    "arm", [DenseLowRank(64, 5, 4), DenseLowRank(64, 5, 4, "omp"), ITDA(64, 4), ITDA(64, 4, "omp")]
)
def test_dense_atoms_of_other_kinds_are_known_by_their_labels(arm):
    spec = {"arm": arm.name, **hashed_fields(arm)}
    assert parse(arm.label) == described(spec) and arm.name in RIVALS
    assert has_degree(arm.name, arm.sizes(16).degree, 16, 64, 64) == (arm.name == LOW_RANK)
    assert display(arm.label).startswith("dense, low rank" if arm.name == LOW_RANK else "activations as atoms (ITDA)")


@pytest.mark.parametrize("encoder", [TOPK, "mp_refit"])
def test_a_label_names_the_basis_of_its_atoms(encoder):
    pursuit = None if encoder == TOPK else encoder
    for basis, always_on, named in (
        ("reflections64_trained", 0, "reflections64_trained"),
        ("fourier", 16, "fourier_on16"),
        ("neurons", 16, "neurons_on16"),
        ("neurons", 0, None),
    ):
        arm = Expander(8, 2, 2, encoder, basis, always_on)
        spec = {"arm": "expander", "encoder": encoder, "basis": basis, "always_on": always_on}
        assert parse(arm.label) == described(spec) == Arm("expander", pursuit, None, named)
        assert parse(Quantised(arm, 4).label) == described({"bits": 4, "of": spec})
    assert display("expander@reflections64+omp") == "expander behind 64 reflections, trained by omp"
    assert display("expander@reflections32_trained_on16") == "expander behind 32 trained reflections, 16 always on"
    assert display("dynamic@monarch") == "dynamic support in monarch"
    assert in_order(["expander+omp", "expander@fourier", "expander"]) == [
        "expander",
        "expander+omp",
        "expander@fourier",
    ]


def test_a_label_names_nested_prefixes_and_the_prefix_that_an_arm_is():
    prefixes: tuple[int | str, ...] = ("1/16", "3/4", 7)
    for encoder, pursuit in (("topk", None), ("batch_topk", "batch_topk"), ("mp_refit", "mp_refit")):
        arm = Dynamic(32, 2, 2, encoder, basis="fourier", prefixes=prefixes)
        spec = {"arm": "dynamic", "encoder": encoder, "basis": "fourier", "prefixes": list(prefixes)}
        expected = Arm("dynamic", pursuit, None, "fourier", prefixes=("n16", "3n4", "7"))
        assert parse(arm.label) == described(spec) == expected and expected.label == arm.label
        for share, named in (("1/4", "n4"), (12, "12")):
            cut, of = Prefix(arm, share), {"arm": "", "of": spec, "share": share}
            assert parse(cut.label) == described(of) == expected._replace(prefix=named)
            rounded = Quantised(cut, 4)
            assert parse(rounded.label) == described({"bits": 4, "of": of}) == parse(cut.label)._replace(bits=4)
    assert display("expander+batch_topk") == "expander, BatchTopK"
    assert display("expander:n16:n4+mp_refit-n4") == "expander, nested n/16+n/4, trained by mp_refit, first n/4"
    looks = ("expander", "expander+batch_topk", "expander+mp_refit", "expander:n4", "expander:n4-n4", "expander:n4+omp")
    assert len({colour(label) for label in looks}) == len(looks)
    assert in_order(["expander:n4-n4", "expander:n4", "expander+omp", "expander"]) == [
        "expander",
        "expander+omp",
        "expander:n4",
        "expander:n4-n4",
    ]


def test_a_label_says_in_which_basis_and_from_when_on_values_were_rounded():
    for start, basis, how in (
        (0.5, "neurons", "trained"),
        (0.1, "neurons", "trained_from0.1"),
        (0.5, "fourier", "trained_fourier"),
        (0.0, "fourier", "trained_fourier_from0"),
    ):
        arm = FewBits(DenseTied(8, 2, "mp_refit"), 2, basis, start)
        spec = {"arm": arm.name, "bits": 2, "rounded_from": start, "of": {"arm": "dense_tied", "encoder": "mp_refit"}}
        assert parse(arm.label) == described(spec) == Arm("dense_tied", "mp_refit", 2, how=how)
        assert parse(arm.label).label == arm.label and unrounded(arm.label) == arm.of.label
    assert display("dense_tied-2bit_trained_fourier_from0.1").endswith("2 bits, trained in a Fourier basis from 0.1 on")
    assert display("dense_tied-4bit_fourier").endswith("4 bits, in a Fourier basis")


def test_a_label_says_what_an_encoders_own_weights_are_rounded_to():
    of = DenseWarmTied(8, 2)
    for arm, words in (
        (Quantised(of, 4, encoder_bits=2), "4 bits, encoder 2 bits"),
        (Quantised(of, 4, "fourier", encoder_bits=1.58), "4 bits, in a Fourier basis, encoder 1.58 bits"),
        (FewBits(of, 1.58, rounded_from=0, encoder_bits=4), "1.58 bits, trained, encoder 4 bits from 0 on"),
    ):
        spec = {"arm": arm.name, **hashed_fields(arm), "of": {"arm": "dense_warmtied"}}
        assert parse(arm.label) == described(spec) and parse(arm.label).label == arm.label
        assert unrounded(arm.label) == "dense_warmtied" and parse(arm.label).bits_in_words == words
    assert "its own encoder" in display("compressed+own-4bit_trained_enc2_from0")


@pytest.mark.parametrize("encoder", [TOPK, "batch_topk"])
def test_a_label_names_the_sizes_of_heads_that_are_not_the_usual_ones(encoder):
    for base, extension, named in ((2, 4, None), (4, 8, "4x8"), (1, 16, "1x16")):
        arm = Kron(64, 4, base, extension, encoder)
        spec = {"arm": arm.name, **hashed_fields(arm)}
        pursuit = None if encoder == TOPK else encoder
        assert parse(arm.label) == described(spec) == Arm("kron", pursuit, None, named)
    assert display("kron@4x8") == "dense, Kronecker encoder of heads 4x8"


def test_labels_outside_the_naming_rule_are_names_of_their_own():
    for label in ("my-arm", "my-2-arm", "orbit", "-8bit", "my-xbit", "my-2bit_tried", "my-.5bit", ""):
        assert parse(label) == Arm(label, None, None) and unrounded(label) == label
    assert unrounded("my-arm+omp-8bit") == "my-arm+omp"


def test_variants_share_name_and_hue_with_their_base_arm_and_come_behind_it():
    assert parse("expander+mp_refit-4bit") == Arm("expander", "mp_refit", 4) and parse("pca") == Arm("pca", None, None)
    assert display("dense_matched_own_bytes-8bit") == "dense own, equal bytes, 8 bits"
    assert display("dense_tied-1.58bit") == "dense, tied, 1.58 bits"
    assert display("dense_tied-2bit_trained") == "dense, tied, 2 bits, trained"
    assert display("expander+mp_refit") == "expander, trained by mp_refit" and display("my_arm") == "my_arm"
    assert colour("expander-8bit") == colour("expander") != colour("expander+mp_refit")
    assert colour("my_arm") == colour("my_arm") and len(colour("my_arm")) == 7
    labels = ["zzz", "pca", "dense_tied", "expander-4bit", "expander", "expander-8bit", "expander+omp"]
    labels += ["expander-1.58bit_trained", "expander-1.58bit", "expander-2bit_trained"]
    assert in_order(labels) == [
        "expander",
        "expander-8bit",
        "expander-4bit",
        "expander-2bit_trained",
        "expander-1.58bit",
        "expander-1.58bit_trained",
        "expander+omp",
        "dense_tied",
        "pca",
        "zzz",
    ]
