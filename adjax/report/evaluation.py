"""An evaluation's folder as `adjax evaluate --output` writes it (docs/quality.md), checked before it is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adjax.errors import AdjaxError
from adjax.evaluate.output import RESULTS_JSON
from adjax.evaluate.summary import ALIGNMENTS, SCHEMA
from adjax.report import checks
from adjax.report.checks import Each, Maybe

NATURAL = "natural"  # what the page calls the uncoded file

_METRIC = {"name": str, "label": str, "unit": str, "higher_is_better": bool, "decimals": int}
_MEAN = {"mean": Maybe(float), "low": Maybe(float), "high": Maybe(float), "files": int}
_USE = {"frames": int, "stages": [{"used": int, "size": int, "entropy_bits": float}], "entropy_kbps": float}
_RATES = {name: Maybe(float) for name in ("payload_kbps", "file_kbps", "encode_rtf", "decode_rtf")}
_SYSTEM = {
    "name": str,
    "kind": str,
    "model": Maybe(str),
    "codebooks": Maybe(int),
    "target_kbps": Maybe(float),
    "files": int,
    "duration_s": float,
    **_RATES,
    "lag_ms": float,
    "codebook_use": Maybe(_USE),
    "raw": Each(_MEAN),
    "compensated": Each(_MEAN),
}
_ROW = {
    "file": str,
    "system": str,
    "duration_s": float,
    "sample_rate_hz": int,
    "channels": int,
    **_RATES,
    "natural_audio": Maybe(str),
    "decoded_audio": Maybe(str),
    "raw": Each(float),
    "compensated": Each(float),
}
_LOST = {"file": str, "system": Maybe(str), "reason": str}
_SHAPE = {
    "settings": {"confidence": float, "bootstrap_resamples": int},
    "versions": Each(str),
    "metrics": [_METRIC],
    "missing": Each([str]),
    "systems": [_SYSTEM],
    "rows": [_ROW],
    "failures": [_LOST],
    "unavailable": [_LOST],
}


@dataclass(frozen=True)
class Evaluation:
    """The values of `results.json`, and the folder that its paths start from."""

    folder: Path
    results: Mapping[str, Any]

    @property
    def system_names(self) -> list[str]:
        return [system["name"] for system in self.results["systems"]]

    @property
    def audible(self) -> list[str]:
        """The utterances whose audio was saved, in the order of the rows."""
        rows = self.results["rows"]
        return list(dict.fromkeys(row["file"] for row in rows if row["natural_audio"] and row["decoded_audio"]))

    def rows(self, file: str) -> dict[str, Mapping[str, Any]]:
        """The rows of an utterance by system."""
        return {row["system"]: row for row in self.results["rows"] if row["file"] == file}

    def audio(self, name: str) -> Path:
        """The file that a row names; raises AdjaxError unless it is one in the folder."""
        path = self.folder / name
        root = self.folder.resolve()
        if not path.resolve().is_relative_to(root):
            raise AdjaxError(f"{self.folder / RESULTS_JSON}: audio '{name}' lies outside of {self.folder}")
        if not path.is_file():
            raise AdjaxError(
                f"{path}: is not there, but {RESULTS_JSON} names it; copy the folder whole, or evaluate again with "
                "--save-audio"
            )
        return path


def read_evaluation(folder: str | Path) -> Evaluation:
    """Reads and checks `results.json` of a folder.

    Raises AdjaxError for what is missing, of a wrong kind or does not fit together, and names it.
    """
    folder = Path(folder)
    path = folder / RESULTS_JSON
    if not folder.is_dir():
        raise AdjaxError(f"{folder}: no such folder; give one that `adjax evaluate --output` has written")
    if not path.is_file():
        raise AdjaxError(f"{folder}: holds no {RESULTS_JSON}; give a folder that `adjax evaluate --output` has written")
    results = checks.read_json(path)
    checks.require(path, results, {"schema": int})
    if results["schema"] != SCHEMA:
        raise AdjaxError(f"{path}: schema is {results['schema']}, but this adjax reads {SCHEMA}; evaluate again")
    checks.require(path, results, _SHAPE)
    checks.complain(path, _contradictions(results))
    return Evaluation(folder, results)


def choose(wanted: Sequence[str], known: Sequence[str], option: str, limit: int | None = None) -> list[str]:
    """`wanted`, or all that are known; raises AdjaxError for what is not known. At most the first `limit`."""
    for name in wanted:
        if name not in known:
            raise AdjaxError(f"{option} {name}: not in the evaluation, which has {', '.join(known) or 'none'}")
    return list(dict.fromkeys(wanted or known))[:limit]


def _contradictions(results: Mapping[str, Any]) -> list[str]:
    """What has the right kinds but does not fit together."""
    errors = []
    metrics = {metric["name"] for metric in results["metrics"]}
    names = [system["name"] for system in results["systems"]]
    if not names:
        errors.append("systems is empty, but there must be one at least")
    if len(set(names)) < len(names):
        errors.append("systems has two of one name")
    for i, metric in enumerate(results["metrics"]):
        if not 0 <= metric["decimals"] <= 10:
            errors.append(f"metrics[{i}].decimals is {metric['decimals']}, but must be 0 to 10")
    for package, left_out in results["missing"].items():
        errors += [f"missing.{package} names '{n}', which is not in metrics" for n in left_out if n not in metrics]
    for i, system in enumerate(results["systems"]):
        for alignment in ALIGNMENTS:
            lacking = metrics - system[alignment].keys()
            errors += [f"systems[{i}].{alignment}.{name} is missing" for name in sorted(lacking)]
            for name, found in system[alignment].items():
                bounds = [found[key] is None for key in ("low", "high")]
                if bounds[0] != bounds[1] or (found["mean"] is None and found["files"] > 0):
                    errors.append(f"systems[{i}].{alignment}.{name} has only some of mean, low and high")
        use = system["codebook_use"]
        if use is not None and (not use["stages"] or system["codebooks"] is None or system["model"] is None):
            errors.append(f"systems[{i}].codebook_use is without model, codebooks or stages")
    seen = set()
    for i, row in enumerate(results["rows"]):
        key = row["file"], row["system"]
        if row["system"] not in names:
            errors.append(f"rows[{i}].system is '{row['system']}', which is not in systems")
        if key in seen:
            errors.append(f"rows[{i}] is a second one for '{row['file']}' and '{row['system']}'")
        seen.add(key)
    return errors
