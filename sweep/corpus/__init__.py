"""Text: documents on either side of the split, and token windows of them.

Records and conf/corpus/ name the corpora as members of this package, so they stay importable from it.
"""

from sweep.corpus.documents import HubCorpus, StdlibCorpus, TextCorpus

__all__ = ["HubCorpus", "StdlibCorpus", "TextCorpus"]
