"""Which data sets hold the weights of a vision encoder.

A data set of kind encoder is a local folder with one encoder's weights. An encoder takes those that `encoder_weights`
names, one for each of its parts; where that is not set, those whose `encoder` says that they are the part's; where none
says so, the only one of the kind, if the encoder has one part. An encoder that has no weights, or brings its own, takes
none, whatever is named: so one sweep can vary the encoder.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from stages.vision.specs import EncoderSpec, UnknownEncoderError, encoder_spec
from sweep.spec.data import DataKind, DataSet

KIND: DataKind = "encoder"


class EncoderWeightsError(ValueError):
    """Weights that are missing or of another number; the message says what would do."""


def weighted_parts(encoder: str) -> tuple[EncoderSpec, ...]:
    """The parts of an encoder that need weights from outside: its transformers."""
    spec = encoder_spec(encoder)
    return tuple(part for part in spec.parts or (spec,) if part.layers)


def weights_of(encoder: str, named: tuple[str, ...] | None, data: Mapping[str, DataSet]) -> tuple[DataSet, ...]:
    """The data sets with the weights of `encoder`, in the order of its parts. `named` is the setting `encoder_weights`.

    Raises:
        EncoderWeightsError: they are not named, or not as many as there are parts.
        stages.vision.specs.UnknownEncoderError: no such encoder.
    """
    parts = weighted_parts(encoder)
    if named is None or not parts:
        return tuple(found_for(encoder, part, alone=len(parts) == 1, data=data) for part in parts)
    if len(named) != len(parts):
        raise EncoderWeightsError(
            f"encoder_weights names {len(named)} data sets ({', '.join(named)}), and {encoder} has {len(parts)} parts "
            f"with weights; name one for each: {', '.join(part.name for part in parts)}"
        )
    return tuple(data[name] for name in named)


def found_for(encoder: str, part: EncoderSpec, *, alone: bool, data: Mapping[str, DataSet]) -> DataSet:
    """The one data set that says it holds `part`, or the only one there is; EncoderWeightsError."""
    all_of_kind = [each for each in data.values() if each.kind == KIND]
    fitting = [each for each in all_of_kind if each.encoder and is_part(each.encoder, part)]
    if not fitting and alone and len(all_of_kind) == 1 and not all_of_kind[0].encoder:
        fitting = all_of_kind
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise EncoderWeightsError(
            f"encoder_weights is not set, and {' and '.join(each.name for each in fitting)} all hold {part.name}; "
            f"name the one for {encoder}"
        )
    known = f"; of kind {KIND} there are {', '.join(each.name for each in all_of_kind)}" if all_of_kind else ""
    raise EncoderWeightsError(
        f"encoder {encoder} needs the weights of {part.name}, which no data set says to hold; add one under data "
        f"(kind: {KIND}, encoder: {usual_name(part)}), or name one as encoder_weights{known}"
    )


def is_part(encoder: str, part: EncoderSpec) -> bool:
    """Whether the encoder of that name is `part`; a part may go by a shorter name than it has alone."""
    return replace(encoder_spec(encoder), name=part.name) == part


def usual_name(part: EncoderSpec) -> str:
    """The name of a part by which `encoder_spec` knows it."""
    return part.name if part.name.endswith(f"-{part.image_size}") else f"{part.name}-{part.image_size}"


def content_revision(weights: tuple[DataSet, ...], given: str) -> str:
    """Names the weights' content: the data sets' revisions, and `given` (`pretrain.encoder_revision`) behind them."""
    revisions = [each.revision for each in weights] if any(each.revision for each in weights) else []
    return ",".join([*revisions, *([given] if given else [])])  # a revision holds no comma


def encoder_problems(found: DataSet) -> Iterator[tuple[str, str]]:
    """What is wrong with a data set as an encoder's weights: the key of its entry, and the complaint."""
    if found.kind != KIND:
        if found.encoder is not None:
            yield "encoder", f"is for data sets of kind {KIND}; this one is of kind {found.kind}"
        return
    if "://" in found.path:
        yield (
            "path",
            f"{found.path!r} is no folder of this machine; an encoder's weights are read from one, so copy them",
        )
    if found.encoder is None:
        return
    try:
        parts = weighted_parts(found.encoder)
    except UnknownEncoderError as error:
        yield "encoder", str(error)
        return
    if len(parts) != 1:
        several = f"has {len(parts)} parts; name the part that this folder holds" if parts else "has no weights to keep"
        yield "encoder", f"{found.encoder!r} {several}"
