"""Text for training and for evaluation: documents on either side of the split, and token windows of them.

documents  what a document and a corpus are, and the split
stdlib     the Python standard library's source
text       files of the user's own
hub        a dataset of the Hugging Face hub
prose      English prose out of a package
windows    documents as windows of tokens
pieces     long documents as tokens, piece by piece

Below `text`: files (which ones, and that they stay the same), blocks (bytes, decompressed), decoding (bytes as text),
formats (which reader reads a file), and the readers plain, jsonl and parquet with what they share, reading and rows.

Records and conf/corpus/ name the corpora as members of this package, so they stay importable from it.
"""

from sweep.corpus.hub import HubCorpus
from sweep.corpus.prose import ProseCorpus
from sweep.corpus.stdlib import StdlibCorpus
from sweep.corpus.text import TextCorpus

__all__ = ["HubCorpus", "ProseCorpus", "StdlibCorpus", "TextCorpus"]
