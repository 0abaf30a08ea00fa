"""Fetch: bring the remote files of a manifest within reach; tracks by their blocks or whole, all else whole."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from chromacc_lib import ChromaccError
from chromacc_lib.manifest import BIGWIG_KINDS
from chromacc_lib.sources import cache_folder, download_all, is_url

__all__ = ["REMOTE_TRACKS", "fetch", "require_remote_tracks"]

REMOTE_TRACKS = ("stream", "download")


def require_remote_tracks(remote_tracks: str) -> None:
    """Raise ChromaccError unless it is one of `REMOTE_TRACKS`."""
    if remote_tracks not in REMOTE_TRACKS:
        raise ChromaccError(f"remote_tracks: got {remote_tracks!r}, needed one of {', '.join(REMOTE_TRACKS)}")


def fetch(manifest: pd.DataFrame, remote_tracks: str = "stream", workers: int = 4,
          say: Callable[[str], None] = print) -> pd.DataFrame:
    """Return the manifest with what has to be whole on disk; column `url` keeps the addresses.

    manifest: from `read_manifest`. remote_tracks: "stream" leaves the addresses of bigWigs, to be read by
    ranges; "download" fetches them whole. Peaks and expression are fetched whole, always. Files go to the
    cache folder (CHROMACC_CACHE, or data/cache), verified by md5 where the manifest has one; what is there is
    not fetched again. say: gets a line with the number of bytes before they are fetched. Raises ChromaccError for
    an unknown choice, or what cannot be fetched.
    """
    require_remote_tracks(remote_tracks)
    remote = manifest["path_or_url"].map(is_url).to_numpy(dtype=bool)
    whole = remote & (~manifest["kind"].isin(BIGWIG_KINDS) | (remote_tracks == "download")).to_numpy(dtype=bool)
    fetched = manifest.assign(url=manifest["path_or_url"].where(remote, ""))
    fetched.attrs = dict(manifest.attrs)
    if whole.any():
        sizes = pd.to_numeric(manifest.get("bytes", pd.Series("", index=manifest.index)), errors="coerce")
        rows = manifest[whole].assign(size=sizes[whole].fillna(0).astype("int64"))
        files = list(zip(rows["path_or_url"], rows["md5"], rows["size"].tolist()))
        fetched.loc[whole, "path_or_url"] = [str(path) for path in download_all(files, _folder(), workers, say)]
    return fetched


def _folder() -> Path:
    return cache_folder() / "files"
