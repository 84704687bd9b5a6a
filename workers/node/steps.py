"""Where watchdog, heart, health and janitor hang: steps of Celery's worker blueprint, around the pool.

They start before the pool (no claim without a lease) and stop after it (the lease holds while
running workers end). Consumer steps would not do: those stop at SIGTERM and restart at each
reconnection to the broker.
"""

from __future__ import annotations

from typing import Any, ClassVar

from celery import Celery, bootsteps
from celery.worker.components import Pool

from colony import logs
from colony.systemd import Notifier
from workers.intake.taker import Taker
from workers.node.children import Children
from workers.node.context import NodeContext
from workers.node.courier import Courier
from workers.node.health import Health
from workers.node.heart import Heart
from workers.node.janitor import Janitor
from workers.node.role import Role
from workers.node.timekeeper import Timekeeper
from workers.node.watchdog import Watchdog
from workers.transport import Transport

Part = Role | Health | Notifier | Children
"""What can be started and stopped."""


class RoleStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """One role as a step. Celery's `stop` and `terminate` both end it in order."""

    context: ClassVar[NodeContext]

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self.role: Part | None = None

    def make(self, worker: Any) -> Part:
        """The role of this step."""
        raise NotImplementedError

    def start(self, worker: Any) -> None:
        """Begin; what fails here ends the node before it has claimed anything."""
        self.role = self.make(worker)
        self.role.start()

    def stop(self, worker: Any) -> None:
        """End it in order."""
        if self.role is not None:
            self.role.stop()

    terminate = stop

    def include(self, parent: Any) -> bool:
        """Always part of the blueprint (StartStopStep's own would create the role too early)."""
        parent.steps.append(self)
        return True


def install(app: Celery, context: NodeContext) -> None:
    """Add the steps to an app's workers, before the pool in the order of starting."""

    class WatchdogStep(RoleStep):
        """Started first, stopped last: it also watches the end."""

        label = "Watchdog"

        def make(self, worker: Any) -> Role:
            """The watchdog, which the heart and the health server ask."""
            worker.colony_watchdog = Watchdog(context, worker)
            return worker.colony_watchdog  # type: ignore[no-any-return]

    class HeartStep(RoleStep):
        """Lease and comparison."""

        label = "Heart"
        requires = (WatchdogStep,)

        def make(self, worker: Any) -> Role:
            """A heart that knows the node's final name and size."""
            context.hostname = worker.hostname
            context.drain.on_begin = context.word.ends
            logs.about(node=context.node)
            pool = worker.pool_cls
            worker.colony_heart = Heart(
                context,
                pool=f"{pool.__module__}:{pool.__qualname__}",
                concurrency=worker.concurrency,
                silent_for=lambda: worker.colony_watchdog.silent_for,
            )
            return worker.colony_heart  # type: ignore[no-any-return]

    class HealthStep(RoleStep):
        """What probes are told."""

        label = "Health"
        requires = (HeartStep,)

        def make(self, worker: Any) -> Part:
            """The server, if there is to be one."""
            worker.colony_health = Health(context, worker.colony_heart, worker.colony_watchdog)
            return worker.colony_health  # type: ignore[no-any-return]

    class NotifierStep(RoleStep):
        """What systemd is told."""

        label = "Notifier"
        requires = (HealthStep,)

        def make(self, worker: Any) -> Part:
            """The notifier, which is silent where no systemd listens."""
            return Notifier(worker.colony_health, lambda: context.drain.begun)

    class ChildrenStep(RoleStep):
        """Hears what the pool's children count."""

        label = "Children"
        requires = (HealthStep,)

        def make(self, worker: Any) -> Part:
            """Whoever hears them, silent where the pool does not fork."""
            context.children.pool = worker.pool_cls
            return context.children

    class TimekeeperStep(RoleStep):
        """Fires what is due."""

        label = "Timekeeper"
        requires = (HealthStep,)

        def make(self, worker: Any) -> Role:
            """A timekeeper."""
            return Timekeeper(context)

    class JanitorStep(RoleStep):
        """Sweeps, and sets messages aside for the consumer."""

        label = "Janitor"
        requires = (HealthStep,)

        def make(self, worker: Any) -> Role:
            """A janitor, which is also where the transport's unreadable messages go."""
            janitor = Janitor(context)
            Transport.set_aside = janitor.set_aside
            return janitor

    class CourierStep(RoleStep):
        """Sends webhooks."""

        label = "Courier"
        requires = (HealthStep,)

        def make(self, worker: Any) -> Role:
            """A courier."""
            return Courier(context)

    class IntakeStep(RoleStep):
        """What foreign producers send. Begins after all others, and ends first."""

        label = "Intake"
        requires = (Pool,)

        def make(self, worker: Any) -> Role:
            """The taker, in the node's main process whatever the pool is."""
            return Taker(context, app)

    app.steps["worker"] |= {
        WatchdogStep,
        HeartStep,
        HealthStep,
        NotifierStep,
        ChildrenStep,
        JanitorStep,
        TimekeeperStep,
        CourierStep,
        IntakeStep,
    }
    before = (NotifierStep, ChildrenStep, JanitorStep, TimekeeperStep, CourierStep)
    Pool.requires = (*Pool.requires, *before)
