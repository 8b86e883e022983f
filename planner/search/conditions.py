"""What surrounds a run: interruptions, queues, prices and the power grid."""

import math
from dataclasses import dataclass, field, replace

from planner.architecture import Architecture
from planner.cards import Card
from planner.cost import Energy, cost_of
from planner.layout import Layout, Quantity
from planner.plan import CardOffer
from planner.prediction import Cost, Hours, StepTime
from planner.prices import Price, PriceTable, card_price
from planner.time.hours import Reliability, hours_of
from planner.workload import Workload

PREEMPTIONS_PER_DAY = 2.0
"""Of one job on preemptible cards, where nobody says: an assumption, not a measurement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Circumstances that the search does not vary."""

    reliability: Reliability = field(default_factory=Reliability)
    """Its preemptions are those of preemptible cards; cards on demand have none."""
    energy: Energy = field(default_factory=Energy)
    prices: PriceTable | None = None
    """A site's own table, in place of the dated one of the cards."""
    currency: str = "USD"
    """Of the prices that offers name."""
    account: str | None = None

    def hours(
        self,
        architecture: Architecture,
        workload: Workload,
        layout: Layout,
        step: StepTime,
        checkpoint_bytes: Quantity,
        offer: CardOffer,
    ) -> Hours | None:
        """The run on the clock under these circumstances."""
        rate = self.reliability.preemptions_per_day if offer.preemptible else 0.0
        cluster = replace(self.reliability, preemptions_per_day=rate)
        return hours_of(architecture, workload, layout, step, checkpoint_bytes, cluster)

    def cost(self, hours: Hours, layout: Layout, card: Card, offer: CardOffer) -> Cost:
        """What it takes from the budget; NaN where no price is known."""
        price = self.price(card, offer)
        if price is not None:
            return cost_of(hours, layout, card, price, energy=self.energy)
        # Any price does: the money is not known, hours and energy are.
        cost = cost_of(hours, layout, card, 1.0, energy=self.energy)
        return replace(
            cost,
            cost_p50=math.nan * cost.cost_p50,
            cost_p95=math.nan * cost.cost_p95,
            price_per_gpu_hour=math.nan,
            currency=self.currency,
            price_source=f"no price known for {card.name} in {self.currency}",
            price_date="",
        )

    def price(self, card: Card, offer: CardOffer) -> Price | None:
        """The offer's own price, else the site's table, else the dated one of the cards."""
        if offer.price_per_gpu_hour is not None:
            return Price(offer.price_per_gpu_hour, self.currency, "given", "")
        if self.prices is not None:
            found = self.prices.price_of(
                card,
                preemptible=offer.preemptible,
                partition=offer.partition,
                account=self.account,
            )
        else:
            found = card_price(card, preemptible=offer.preemptible)
        return found if found is not None and found.currency == self.currency else None

    def rates(self, offer: CardOffer) -> tuple[float, float] | None:
        """A low and a high rate of interruptions to compare; None where none are expected."""
        rate = self.reliability.preemptions_per_day
        return (0.5 * rate, 2.0 * rate) if offer.preemptible and rate else None

    def with_rate(self, rate: float) -> "Conditions":
        """The same with another rate of interruptions."""
        return replace(self, reliability=replace(self.reliability, preemptions_per_day=rate))
