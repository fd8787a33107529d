"""Exporting by a format's name: without the other libraries, without overwriting, and front to back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sae_core.arms import Expander
from sae_core.formats import FORMATS, About, FormatError, export
from tests.contracts.test_arms import D, K, N
from tests.sae_core.formats.cases import ABOUT, trained

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", FORMATS)
def test_no_file_is_overwritten_and_none_is_left_half_written(name, tmp_path):
    sae = trained(Expander(N, D, K))
    files = export(sae, name, tmp_path, ABOUT).files
    before = {file: file.read_bytes() for file in files}
    assert set(files) == set(tmp_path.iterdir()) and all(before.values())
    with pytest.raises(FormatError, match="is there already, and is not overwritten"):
        export(sae, name, tmp_path, ABOUT)
    assert {file: file.read_bytes() for file in files} == before


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_not_known_is_null_or_left_out(name, tmp_path):
    *_, config = export(trained(Expander(N, D, K)), name, tmp_path).files
    text = json.dumps(json.loads(config.read_text()))
    assert "None" not in text and "blocks" not in text and "layers" not in text


def test_an_unknown_format_is_named():
    with pytest.raises(FormatError, match="format=safelens must be saelens, sparsify, dictionary_learning"):
        export(trained(Expander(N, D, K)), "safelens", "nowhere")


def test_none_of_the_libraries_is_loaded():
    code = (
        "import sys, sae_core.formats; sys.exit(bool({'sae_lens', 'sparsify', 'dictionary_learning'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_hook_point_follows_from_the_layer():
    unknown = About(layer=5)
    assert (unknown.hook_name, unknown.module, unknown.full_module) == ("blocks.5.hook_resid_post", "layers.5", None)
    assert (About().hook_name, About().module, About(blocks="model.layers").full_module) == (None, None, None)


@pytest.mark.parametrize(
    "blocks, module",
    [
        ("model.layers", "layers.5"),
        ("transformer.h", "h.5"),
        ("model.decoder.layers", "decoder.layers.5"),
        ("h", "h.5"),
    ],
)
def test_modules_are_named_as_the_lm_names_them(blocks, module):
    about = About(layer=5, blocks=blocks)
    assert (about.module, about.full_module) == (module, f"{blocks}.5")
