"""Pages of a release that show its cases, and a server on this machine that opens them."""

from __future__ import annotations

import errno
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tumoratlas.core.errors import MachineError, ReleaseError
from tumoratlas.core.files import sha256_bytes, to_json
from tumoratlas.core.structures import RESOURCES, structures, tumor_structures
from tumoratlas.release.facts import ReleaseFacts, Row
from tumoratlas.review.packets.triage import NIIVUE_SHA256

FOLDER = "viewer"
PAGES = ("case.html", "case.js", "index.html", "index.js", "viewer.css")
HOST = "127.0.0.1"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
    ".gz": "application/gzip",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".md": "text/markdown; charset=utf-8",
    ".svg": "image/svg+xml",
}


def viewer_files(facts: ReleaseFacts) -> dict[str, str]:
    """Return the pages that show the release's cases, and what they know of them.

    ``viewer/index.html`` lists tumors and cases, ``viewer/case.html`` shows one with its masks;
    both read ``viewer/cases.js`` and the volumes where they lie in the release.

    Raises
    ------
    ValueError
        The vendored NiiVue is not the file that its README names.
    """
    niivue = (RESOURCES / "vendor/niivue/niivue.umd.js").read_text(encoding="utf-8")
    if sha256_bytes(niivue.encode()) != NIIVUE_SHA256:
        raise ValueError("resources/vendor/niivue/niivue.umd.js is not the file of its README")
    texts = {name: (RESOURCES / "viewer" / name).read_text(encoding="utf-8") for name in PAGES}
    texts["niivue.js"] = niivue
    texts["niivue_LICENSE.txt"] = (RESOURCES / "vendor/niivue/LICENSE").read_text(encoding="utf-8")
    texts["cases.js"] = _cases_script(facts)
    return {f"{FOLDER}/{name}": text for name, text in sorted(texts.items())}


def _cases_script(facts: ReleaseFacts) -> str:
    """Return the script that sets ``RELEASE`` and ``CASES``: one line per case."""
    tumors: dict[str, list[Row]] = defaultdict(list)
    for row in facts.tables["tumors"]:
        tumors[row["case_id"]].append(_tumor(row))
    release = {
        "version": facts.version,
        "target": facts.target,
        "definitions": facts.definitions,
        # Values of `combined_labels`, and of `kidney`, which has no side.
        "structures": {row.name: row.index for row in structures().values()},
        "tumor_structures": [row.name for row in tumor_structures().values()],
    }
    cases = [
        {
            "case_id": case["case_id"],
            "source": case["source"],
            "slices": case["slices"],
            # Files below the case, without their ending.
            "files": sorted(name.removesuffix(".nii.gz") for name in case["voxel_sha256"]),
            "tumors": sorted(tumors[case["case_id"]], key=lambda t: (t["map"], t["number"])),
        }
        for case in sorted(facts.cases, key=lambda case: case["case_id"])
    ]
    lines = ",\n".join(to_json(case) for case in cases)
    return f"window.RELEASE = {to_json(release)};\nwindow.CASES = [\n{lines}\n];\n"


def _tumor(row: Mapping[str, Any]) -> Row:
    x, y, z = row["centroid_lps_mm"]
    return {
        "organ": row["organ"],
        # The instance map that holds it; its number is unique there, not in its organ.
        "map": "pooled" if row["lesion_kind"] == "lesion" else row["organ"],
        "number": row["number"],
        "side": row["side"],
        "kind": row["lesion_kind"],
        "radius_mm": round(row["radius_mm"], 2),
        "longest_axial_mm": round(row["longest_axial_mm"], 1),
        "size_class": row["size_class"],
        "early": row["is_early"],
        "fragment": row["is_fragment"],
        "centroid_ras_mm": [round(-x, 3), round(-y, 3), round(z, 3)],
    }


def release_server(release: Path, port: int) -> ThreadingHTTPServer:
    """Return a server of a release's files, for this machine only; close it after use.

    Parameters
    ----------
    release
        Folder of the release. Nothing outside it is served.
    port
        Of the address ``http://127.0.0.1:<port>/viewer/``; 0 takes any that is free.

    Raises
    ------
    ReleaseError
        ``NO_VIEWER``: the folder holds no pages.
    MachineError
        ``PORT``: the port cannot be had.
    """
    page = release / FOLDER / "index.html"
    if not page.is_file():
        raise ReleaseError(
            "NO_VIEWER",
            page,
            "is missing: this is no release, or one without pages",
            remedy="Give the folder that holds SHA256SUMS, or build the release again",
        )
    root = release.resolve()
    try:
        return _Server((HOST, port), partial(_Handler, directory=str(root)))
    except (OSError, OverflowError) as error:
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        raise MachineError(
            "PORT",
            f"{HOST}:{port}",
            "another program has this port" if taken else f"cannot be opened ({error})",
            remedy="Choose another: --port 8766",
        ) from None


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a browser that leaves a page breaks off what it was loading."""


class _Handler(SimpleHTTPRequestHandler):
    """Files of one folder to programs of this machine: GET and HEAD, no listings."""

    extensions_map = _TYPES  # noqa: RUF012

    def send_head(self) -> Any:
        """Open the file that is asked for; anything beside the release is not found."""
        host, _, port = self.headers.get("Host", "").rpartition(":")
        # A page of another site can give its own name this machine's address.
        if host not in (HOST, "localhost") or port != str(self.server.server_address[1]):
            self.send_error(HTTPStatus.FORBIDDEN, "This server answers to its own address only")
            return None
        if self.path == "/":
            self.send_response(HTTPStatus.FOUND)
            self.send_header("Location", f"/{FOLDER}/")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        path = Path(self.translate_path(self.path))
        # Of a folder the parent class opens its index, which may be a link of its own.
        paths = (path, *(path / name for name in ("index.html", "index.htm")))
        if not all(one.resolve().is_relative_to(self.directory) for one in paths):
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        return super().send_head()

    def list_directory(self, path: Any) -> None:
        """Show no listing."""
        self.send_error(HTTPStatus.NOT_FOUND)

    def end_headers(self) -> None:
        """Forbid others to use the files, and the browser to take an older release's."""
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Keep the terminal quiet."""
