"""Rules for post-processing, one record a structure, as the cards of the weights hold them. Needs no torch.

The paper has none, so its cards name none. `pipeline.inference.postprocessing` applies the rules.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from pipeline.config import COMPONENTS, EVERY

# A card's key for the rules.
CARD_KEY = "postprocessing"


@dataclass(frozen=True)
class PostProcessing:
    """One structure's rules; the defaults change nothing.

    Attributes:
        components: what is kept of the mask, one of `pipeline.config.COMPONENTS`.
        fill_holes: fill the cavities of the mask.
        flip_average: average the prediction with that of the volume mirrored left to right.
        never_empty: lower the threshold until something appears, for challenges in which every case has the structure.
        keeps_contested: voxels that both structures claim go to the smaller of the two bodies.
    """

    components: str = EVERY
    fill_holes: bool = False
    flip_average: bool = False
    never_empty: bool = False
    keeps_contested: bool = False

    def as_card(self) -> dict[str, Any]:
        """Return the rules as a card holds them."""
        return asdict(self)

    @property
    def change_anything(self) -> bool:
        """Tell whether any rule changes anything."""
        return self != PostProcessing()

    def __str__(self) -> str:
        """Name the rules that change something, as in "components largest, fill holes"."""
        named = [] if self.components == EVERY else [f"components {self.components}"]
        named += [f.name.replace("_", " ") for f in fields(self) if getattr(self, f.name) is True]
        return ", ".join(named)


def rules_of(card: Mapping[str, Any]) -> PostProcessing:
    """Return the rules that a card names; a card without any, such as the paper's, names those that change nothing.

    Raises:
        ValueError: an unknown rule, or a value of another type.
    """
    named = card.get(CARD_KEY, {})
    known = {field.name: type(field.default) for field in fields(PostProcessing)}
    for name, value in named.items() if isinstance(named, dict) else [(CARD_KEY, named)]:
        if name not in known or type(value) is not known[name] or (name == "components" and value not in COMPONENTS):
            raise ValueError(f"card: expected post-processing by {', '.join(known)}, got {name} = {value!r}")
    return PostProcessing(**named)
