"""Samples written in one line."""

from hpcjobs.data.llava_json import Sample, Turn


def conversation(*texts: str, picture: str | None = None, index: int = 0) -> Sample:
    """A sample whose turns alternate, human first."""
    speakers = ["human", "gpt"] * len(texts)
    turns = tuple(Turn(who, text) for who, text in zip(speakers, texts, strict=False))
    return Sample(index, f"sample-{index}", picture, turns)
