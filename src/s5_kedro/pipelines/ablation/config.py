"""What is compared, and over how many seeds."""

from __future__ import annotations

from dataclasses import dataclass

STUDIES = ("selection",)
SUPERVISED = "supervised"


@dataclass(frozen=True)
class AblationConfig:
    """The `ablation` parameter group.

    Args:
        study: ``"selection"``: what S4P gains from each way to select its pool.
        arms: What is compared beside the supervised baseline, joined by ``+``, since the command line takes no lists: a
            strategy of `diversity_sampling`, or one with a quota such as ``s5:uniform``.
        seeds: Number of seeds: `seed`, `seed` + 1, ...
        reference: The arm that the others are drawn against in the picture.
        resamples: Of the bootstrap.
    """

    study: str = "selection"
    arms: str = "random+entropy+diversity+s5+s5_band"
    seeds: int = 3
    reference: str = "random"
    resamples: int = 10_000

    def __post_init__(self) -> None:
        if self.study not in STUDIES:
            raise ValueError(f"ablation.study: expected one of {', '.join(STUDIES)}, got {self.study!r}")
        for name in ("seeds", "resamples"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"ablation.{name}: expected a whole number of at least 1, got {value!r}")
        names = self.names()
        if not all(names) or len(set(names)) < len(names) or SUPERVISED in names:
            raise ValueError(f"ablation.arms: expected different strategies joined by +, got {self.arms!r}")
        for name in names:
            self.sampling(name)
        if self.reference not in (SUPERVISED, *names):
            raise ValueError(
                f"ablation.reference: expected one of {', '.join((SUPERVISED, *names))}, got {self.reference!r}"
            )

    def names(self) -> list[str]:
        return [name.strip() for name in self.arms.split("+")]

    def sampling(self, name: str) -> dict[str, str]:
        """What an arm sets of `diversity_sampling`.

        Raises:
            ValueError: there is no such strategy or quota.
        """
        from s5.selection import SamplingConfig

        strategy, _, quota = name.partition(":")
        chosen = {"strategy": strategy} | ({"quota": quota} if quota else {})
        try:
            SamplingConfig(budget=1, **chosen)  # type: ignore[arg-type]
        except ValueError as error:
            raise ValueError(f"ablation.arms: {name!r} is no arm ({error})") from error
        return chosen
