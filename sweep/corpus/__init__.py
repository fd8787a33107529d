"""Text for training and for evaluation: documents on either side of the split, and token windows of them.

documents  what a document and a corpus are, and the split
stdlib     the Python standard library's source
text       text files of the user's own
hub        a dataset of the Hugging Face hub
windows    documents as windows of tokens

Records and conf/corpus/ name the corpora as members of this package, so they stay importable from it.
"""

from sweep.corpus.hub import HubCorpus
from sweep.corpus.stdlib import StdlibCorpus
from sweep.corpus.text import TextCorpus

__all__ = ["HubCorpus", "StdlibCorpus", "TextCorpus"]
