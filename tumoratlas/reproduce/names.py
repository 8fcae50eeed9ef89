"""Names that mean the same in every run and tell nothing of the place where it ran."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

_CHECKOUT = "resources"
_OUTSIDE = "outside"
_RECORDS = "records"
_RETURNS = "/returns"


class Names:
    """Renames the folders that a configuration chose, by what they are for.

    A source's folder becomes ``sources/<id>``, the folder of human work ``records``, an external
    model's ``external/<organ>``, the release before this one ``previous``. Files of the checkout
    are named from ``resources`` on. Every other absolute path keeps its last part only.

    Parameters
    ----------
    config
        Whole configuration of a run, as its records hold it.
    public
        Whether names that are not the pipeline's own go too: of files below those folders, of
        files outside, and of what reviewers returned.
    """

    def __init__(self, config: Mapping[str, Any], *, public: bool = False) -> None:
        self._public = public
        places = {config.get("records", _RECORDS): _RECORDS}
        for source in config.get("sources", []):
            places[source["path"]] = f"sources/{source['id']}"
            if "lock" in source:
                places[source["lock"]] = f"sources/{source['id']}.csv"
        for entry in config.get("train", {}).get("external", []):
            places[entry["folder"]] = f"external/{entry['organ']}"
            if "training_groups_file" in entry:
                places[entry["training_groups_file"]] = f"external/{entry['organ']}.csv"
        if previous := config.get("release", {}).get("previous"):
            places[previous] = "previous"
        # The longest first: a source may lie in another one's folder.
        self._places = {
            str(PurePosixPath(place)): places[place]
            for place in sorted(places, key=lambda place: (-len(place), place))
        }

    def path(self, path: str) -> str:
        """Return the name of a file or folder, relative and with forward slashes."""
        plain = str(PurePosixPath(path))
        for place, name in self._places.items():
            if plain == place or plain.startswith(f"{place}/"):
                return self._below(name, plain[len(place) :])
        parts = PurePosixPath(plain).parts
        if not PurePosixPath(plain).is_absolute() and ".." not in parts:
            return plain
        if _CHECKOUT in parts:
            last = len(parts) - 1 - parts[::-1].index(_CHECKOUT)
            return "/".join(parts[last:])
        return self._below(_OUTSIDE, f"/{parts[-1]}")

    def _below(self, folder: str, rest: str) -> str:
        if not self._public or (folder == _RECORDS and not rest.startswith(_RETURNS)):
            return folder + rest
        return folder + _RETURNS if folder == _RECORDS else folder

    def value(self, value: Any) -> Any:  # noqa: ANN401 - JSON values of any kind
        """Return a JSON value with every path in it renamed, keys too."""
        if isinstance(value, Mapping):
            return {self.value(key): self.value(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        if isinstance(value, str) and (value.startswith(("/", "../")) or self._is_placed(value)):
            return self.path(value)
        return value

    def _is_placed(self, text: str) -> bool:
        plain = str(PurePosixPath(text))
        return any(plain == place or plain.startswith(f"{place}/") for place in self._places)
