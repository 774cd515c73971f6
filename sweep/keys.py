"""Content addresses: same key, same work (docs/formats.md, Keys)."""

import hashlib
import json
from collections.abc import Sequence

from stages.config import FORMAT_VERSIONS, StageConfig

KEY_DIGITS = 16
ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical_json(config: StageConfig) -> str:
    """The configuration as JSON that is the same for the same meaning: defaults left out, names sorted, no spaces."""
    return compact_json(config.model_dump(mode="json", exclude_defaults=True))


def compact_json(content: object) -> str:
    """Sorted, without spaces; ValueError for NaN and Inf."""
    return ENCODER.encode(content)


def job_key(stage: str, config_json: str, parents: Sequence[str] = ()) -> str:
    """Key of a job of `stage` with the configuration `config_json` (`canonical_json`) and its parents' keys."""
    # stages and keys are plain words: what compact_json would write
    quoted = ",".join([f'"{parent}"' for parent in parents])
    content = f'["{stage}",{FORMAT_VERSIONS[stage]},{config_json},[{quoted}]]'
    return hashlib.sha256(content.encode()).hexdigest()[:KEY_DIGITS]
