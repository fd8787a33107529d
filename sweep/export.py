"""`python -m sweep.export run=ID format=saelens`: write a run's SAE so that another library loads it."""

from __future__ import annotations

import sys
from pathlib import Path

from sae_core import io
from sae_core.formats import FORMATS, About, export, format_name
from sae_core.formats.saelens_files import save_sparse
from sae_core.inference import ENCODER, infer_by
from sweep.jobs.key_values import finished_run, key_values
from sweep.launch import command
from sweep.store.records import Record, run_folder

USAGE = """python -m sweep.export run=ID format=saelens [out=DIR] [inference=encoder] [sparse=true] [runs_dir=runs]

  run=ID             a finished run
  format=            saelens, sparsify or dictionary_learning; none of them has to be installed
  out=DIR            the folder for the files; by default exports/ID/FORMAT, and below it the module, such as layers.1,
                     for sparsify, which knows a hook point by its folder's name
  inference=encoder  the reading to write: that of the SAE's own encoder, or in its place topk (one product) or mp
                     (matching pursuit); python -m sweep.evaluate measures what another reading preserves
  sparse=true        for SAELens alone: the SAE as it is stored, whatever reads it; its atoms are never made dense, and
                     SAELens loads it after `import sae_core.formats.saelens`; out is exports/ID/saelens-sparse"""

_NEEDED = {"run": "ID", "format": "saelens"}
_OPTIONAL = {"out": "DIR", "inference": "encoder", "sparse": "true", "runs_dir": "runs"}


@command(USAGE)
def main(arguments: list[str]) -> int:
    """Export the SAE that is named, and say what was written. Return the exit code: 0 if all went well."""
    given = key_values(arguments, _NEEDED, _OPTIONAL)
    name, runs_dir = format_name(given["format"]), Path(given.get("runs_dir", "runs"))
    sparse = _sparse(given.get("sparse", "false"), name)
    record = finished_run(given["run"], runs_dir)
    about = _about(record)
    out = Path(given["out"]) if "out" in given else _folder(name, sparse, given["run"], about)
    sae = infer_by(io.load(run_folder(runs_dir, given["run"])), given.get("inference", ENCODER))
    written = save_sparse(sae, out, about) if sparse else export(sae, name, out, about)
    size = sum(file.stat().st_size for file in written.files)
    print(f"{out}: {record['title']} for {name}, {size:,} bytes")
    for note in written.notes:
        print(f"note: {note}")
    return 0


def _sparse(said: str, name: str) -> bool:
    if said not in ("true", "false"):
        raise ValueError(f"sparse={said} must be true or false")
    if said == "true" and name != "saelens":
        raise ValueError(f"sparse=true is for format=saelens, not for format={name}, which has dense atoms alone")
    return said == "true"


def _folder(name: str, sparse: bool, run_id: str, about: About) -> Path:
    folder = Path("exports") / run_id / (f"{name}-sparse" if sparse else name)
    return folder / about.module if FORMATS[name].BY_MODULE and about.module else folder


def _about(record: Record) -> About:
    """Return what a record says of the LM, the layer and the text, without paths of this machine."""
    model, corpus = (record.get("config", {}).get(part, {}) for part in ("model", "corpus"))
    own_folder = model.get("path") is not None
    dataset = corpus.get("name") if corpus.get("_target_") == "sweep.corpus.HubCorpus" else None
    if dataset is not None and Path(dataset).expanduser().is_absolute():
        dataset = None
    return About(
        model=(None if own_folder else model.get("hub_id")) or record["labels"]["model"],
        layer=record["axes"]["layer"],
        context=record["spec"]["activations"]["window"],
        dataset=dataset or record["labels"]["corpus"],
        bos=record["spec"]["activations"]["bos"] == "window",
        run=record["run_id"],
        blocks=record.get("lm", {}).get("blocks"),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
