"""The READMEs cannot rot: links, commands, settings and examples are checked, and each check is shown to fail."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import initialize_config_module

from analysis.catalogue import CATALOGUE
from tests.readme_checks import (
    FENCED,
    READMES,
    ROOT,
    SPAN,
    RottenError,
    anchors,
    check_links,
    check_python_example,
    check_settings,
    known_settings,
)
from tests.readme_commands import check_command, mentioned_commands, shown_commands, split

MOST_LINES = 150
FOLDERS = ("analysis", "conf", "sae_core", "sae_core/kernels", "sweep", "sweep/tracking")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Path]:
    """A folder with a text of many documents, while Hydra is set up to compose from `conf`."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "text.txt").write_text("<|endoftext|>".join(f"{'some words ' * 2000} {i}" for i in range(200)))
    with initialize_config_module("conf", version_base="1.3"):
        yield folder


def read(readme: str) -> str:
    return (ROOT / readme).read_text()


def commands() -> list[tuple[str, str]]:
    """Return (README, command) of every distinct command, shown or mentioned."""
    found: dict[tuple[str, str], None] = {}
    for readme in READMES:
        found |= dict.fromkeys((readme, shlex.join(words)) for words in shown_commands(read(readme)))
        mentioned = (words for words in mentioned_commands(read(readme)) if len(words) > 3 or words[0] != "python")
        found |= dict.fromkeys((readme, shlex.join(words)) for words in mentioned)
    return list(found)


def test_the_readme_links_to_the_readme_of_every_folder():
    assert {f"{folder}/README.md" for folder in FOLDERS} | {"README.md"} <= set(READMES)
    for readme in READMES:
        assert readme == "README.md" or f"({readme})" in read("README.md"), f"README.md has no link to {readme}"


def test_the_readme_stays_short():
    assert len(read("README.md").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("readme", READMES)
def test_every_link_leads_somewhere(readme):
    check_links(ROOT / readme, read(readme))


@pytest.mark.parametrize("readme, command", commands())
def test_every_command_is_understood(readme, command, place):
    check_command(shlex.split(command), place)


@pytest.mark.parametrize("readme", READMES)
def test_every_module_and_setting_mentioned_exists(readme, place):
    for words in mentioned_commands(read(readme)):
        if words[0] == "python":
            assert importlib.util.find_spec(words[2]) is not None, words
    check_settings(read(readme), known_settings())


@pytest.mark.parametrize("readme", READMES)
def test_every_python_example_compiles_and_names_what_exists(readme):
    for language, code in FENCED.findall(read(readme)):
        if language == "python":
            check_python_example(code)


def table_rows(text: str, heading: str, columns: int) -> list[list[str]]:
    """Return the cells of each row of the table of so many columns whose first one is headed `heading`."""
    start = re.search(rf"^\| {re.escape(heading)} .*\|\n(\|-+){{{columns}}}\|$", text, re.M)
    assert start is not None
    lines = text[start.start() :].splitlines()
    rows = [line for line in lines[: lines.index("")] if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_the_tables_of_experiments_and_arms_are_whole():
    rows = table_rows(read("conf/README.md"), "`experiment=`", 3)
    listed = {name for first, *_ in rows for name in SPAN.findall(first)}
    folder = ROOT / "conf/experiment"
    assert listed == {file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.yaml")}
    assert {name for *_, last in rows for name in SPAN.findall(last)} <= set(CATALOGUE)
    arms = {name for first, *_ in table_rows(read("sae_core/README.md"), "`sae=`", 4) for name in SPAN.findall(first)}
    assert arms == {file.stem for file in (ROOT / "conf/sae").glob("*.yaml")}


# The checks themselves: each finds something rotten.


@pytest.mark.parametrize("link", ["no/such.md", "README.md#no-such-heading", "#no-such-heading", "analysis/no.png"])
def test_a_broken_link_is_found(link):
    check_links(ROOT / "README.md", "# A heading\n[here](#a-heading) [there](conf/README.md#axes) `[code](x)`")
    with pytest.raises(RottenError, match="leads to no"):
        check_links(ROOT / "README.md", f"# A heading\n[text]({link})")


def test_anchors_are_those_of_github():
    text = "# W & B: `names`\n## Two\n## Two\n```bash\n# no heading\n```\n"
    assert anchors(text) == {"w--b-names", "two", "two-1"}


@pytest.mark.parametrize(
    "command, reason",
    [
        ("python -m sweep d=7 trian.steps=5", "trian"),
        ("python -m sweep -m d=3,7 eval.widnows=3", "widnows"),
        ("python -m sweep experiment=search hydra.sweeper.trials=3", "trials"),
        ("python -m sweep -m hydra/sweeper=optuna_frontier d=7", "nothing to search"),
        ("python -m sweep experiment=nothing", "experiment/nothing"),
        ("python -m sweep d=3,7", "Ambiguous"),
        ("python -m sweep d=1000", "d=1000"),
        ("python -m sweep sae.encoder=no_such", "no_such"),
        ("python -m sweep.evaluate run=all eval.infer=[omp]", "infer"),
        ("python -m sweep.evaluate run=all d=3", "settled"),
        ("python -m sweep.status --wach", "--wach"),
        ("python -m sweep.no_such", "no module"),
        ("python -m analysis frontir", "frontir"),
        ("python -m analysis frontier --z 3", "--z"),
        ("make swep", "no target swep"),
        ("pip install -e '.[dashbord]'", "no extra dashbord"),
        ("rm -rf runs", "no rule"),
    ],
)
def test_a_rotten_command_is_found(command, reason, place):
    with pytest.raises(RottenError, match=re.escape(reason)):
        check_command(next(split(command)), place)


def test_a_setting_that_the_configuration_lacks_is_found():
    check_settings("`train.lr=1e-3`, `sae=expander`, `d=3 k=4`, `hydra/launcher=ray`, `+x`", known_settings())
    with pytest.raises(RottenError, match="train.rate"):
        check_settings("give `train.rate=3`", known_settings())


@pytest.mark.parametrize(
    "code",
    ["import sae_core\nsae_core.no_such(3)", "from sae_core.io import no_such", "import sae_core\nsae_core.load()"],
)
def test_a_rotten_example_is_found(code):
    with pytest.raises(RottenError):
        check_python_example(code)


def test_commands_are_found_in_blocks_and_in_text():
    bash = "```bash\nA=1 make test && python -m x a=1 \\\n  b=2   # why\n```\n"
    text = f"run `make lint`:\n{bash}```console\n$ make\nout\n```\n"
    assert list(shown_commands(text)) == [["make", "test"], ["python", "-m", "x", "a=1", "b=2"], ["make"]]
    assert list(mentioned_commands(text)) == [["make", "lint"]]
